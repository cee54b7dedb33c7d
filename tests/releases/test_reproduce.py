"""``nivesh reproduce``: a run or release made again in a worktree, and its predictions compared."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
import pandas as pd
import pytest

from nivesh_lib.errors import NiveshError, StepFailed
from nivesh_lib.models.directory import model_hash
from nivesh_lib.pipeline.run import run_pipeline
from nivesh_lib.releases import reproduce as module
from nivesh_lib.releases.reproduce import TOLERANCE, compare, reproduce
from nivesh_lib.reproducibility import git_state
from tests.cli.conftest import run
from tests.conftest import REPOSITORY
from tests.pipeline.conftest import build_home, write_notebook

__all__ = ["run"]  # a fixture
PARAMETERS = 'DATASET: str = "toy@1.0.0"\nSLEEP: float = 0.0\nBOOST: int = 0'
ANSWER = """
import json, os, pathlib, time
import numpy as np
from nivesh_lib.data.versions import load_dataset
time.sleep(SLEEP)
run = pathlib.Path(os.environ["NIVESH_RUN_DIR"])
train = load_dataset(DATASET).train
shift = int(pathlib.Path("../shift.txt").read_text())
save = np.random.default_rng(BOOST + shift).uniform(0.6, 0.9, len(train))
for kind in ("results", "oof"):
    (run / kind).mkdir(exist_ok=True)
answers = train[["id", "fold"]].assign(save=save, spend=1 - save)
answers.to_parquet(run / "oof" / "{name}.parquet", index=False)
(run / "results" / "{name}.json").write_text(json.dumps({{"headline": "said"}}))
"""
MODEL = """
from nivesh_lib.models.base import get_model
model = get_model("tfidf").fit(train["query"], train["intent"])
model.save(run / "models" / "{name}", data=DATASET)
"""


def git(home, *arguments):
    options = {"capture_output": True, "text": True, "check": True}
    return subprocess.run(["git", *arguments], cwd=home, **options).stdout.strip()


@pytest.fixture(autouse=True, scope="module")
def of_nobody(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path_factory.getbasetemp().parent))
        patch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
        for person in ("AUTHOR", "COMMITTER"):
            patch.setenv(f"GIT_{person}_NAME", "A")
            patch.setenv(f"GIT_{person}_EMAIL", "a@example.org")
        git_state.cache_clear()
        yield
    git_state.cache_clear()


@pytest.fixture(scope="module")
def committed(tmp_path_factory, empty_store):
    """A committed home in which all four notebooks were run with a parameter of their own."""
    home = tmp_path_factory.mktemp("committed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NIVESH_HOME", str(home))
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{empty_store}")
        build_home(home)
        for name in ("01_a", "02_b", "03_c", "04_d"):
            cells = [ANSWER.format(name=name)]
            cells += [MODEL.format(name=name)] if name == "01_a" else []
            cells += ['open("../ignored.txt")'] if name == "04_d" else []
            write_notebook(home / "notebooks" / f"{name}.ipynb", cells, PARAMETERS)
        with (home / "notebooks" / "pipeline.toml").open("a") as spec:
            spec.write('[[step]]\nname = "04_d"\nhelp = "d"\n')
        (home / "shift.txt").write_text("0\n")
        (home / "ignored.txt").write_text("")
        (home / ".gitignore").write_text("reports/\nmlruns/\nignored.txt\n")
        for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
            git(home, *command)
        run_pipeline(dataset="toy@1.0.0", settings=["BOOST=7"])
    return home


@pytest.fixture
def home(tmp_path, monkeypatch, store, committed):
    """A copy of that home, with a folder of its own for what is temporary."""
    folder = tmp_path / "home"
    shutil.copytree(committed, folder, symlinks=True)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("NIVESH_HOME", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    git_state.cache_clear()
    return folder


def only_run(home):
    (folder,) = (home / "reports" / "runs").iterdir()
    return folder


def edit(home, change):
    """Change the record of the run as JSON."""
    path = only_run(home) / "run.json"
    record = json.loads(path.read_text())
    change(record)
    path.unlink()  # it is a link to the fixture's
    path.write_text(json.dumps(record))


def rewrite(home, step, change):
    """Change a table of recorded predictions."""
    path = only_run(home) / "oof" / f"{step}.parquet"
    change(pd.read_parquet(path)).to_parquet(path, index=False)


def check_nothing_is_left(home):
    assert len(git(home, "worktree", "list").splitlines()) == 1
    assert list((home.parent / "temporary").iterdir()) == []
    assert git(home, "status", "--porcelain") == ""


@pytest.fixture
def again(monkeypatch, home):
    """The re-run left out: it finds what the run has recorded, before a test changes that."""
    kept = home.parent / "again"
    shutil.copytree(only_run(home), kept)
    found = module.RunDirectory(kept)
    monkeypatch.setattr(module, "_run_again", lambda *arguments: (found.record(), found))
    return kept


# --- the whole way -----------------------------------------------------------------------------


def test_a_run_is_made_again_and_each_step_gets_its_verdict(home, run):
    rewrite(home, "02_b", lambda table: table.assign(save=table["save"] + 1e-6))
    swapped = {"save": "spend", "spend": "save"}
    rewrite(home, "03_c", lambda t: pd.concat([t[:2].rename(columns=swapped), t[2:]]))
    before = sorted(str(path) for path in home.rglob("*") if ".git/" not in str(path))
    done = run("reproduce", "latest", "--json", "--step", "01", "--step", "02", "--step", "03")
    found = json.loads(done.stdout)
    assert done.returncode == 1 and found["commit"] == git(home, "rev-parse", "HEAD")
    by_step = {verdict["step"]: verdict for verdict in found["verdicts"]}
    verdicts = {step: verdict["verdict"] for step, verdict in by_step.items()}
    assert verdicts == {"01_a": "equal", "02_b": "within tolerance", "03_c": "different"}
    assert 0 < by_step["02_b"]["largest"] < 2e-6 and by_step["01_a"]["largest"] == 0
    changed = by_step["03_c"]["changed"]
    first = pd.read_parquet(only_run(home) / "oof" / "03_c.parquet")["id"][:2]
    assert {row["id"] for row in changed} == set(first)
    assert {(row["before"], row["now"]) for row in changed} == {("spend", "save")}
    assert all(0 < verdict["seconds"] < 600 for verdict in found["verdicts"])
    (note,) = found["notes"]  # so code, data, parameters and threads were the same
    assert "nothing not installed (not 1.0)" in note
    assert sorted(str(path) for path in home.rglob("*") if ".git/" not in str(path)) == before
    check_nothing_is_left(home)


def test_a_step_that_fails_in_the_re_run_is_named(home):
    with pytest.raises(StepFailed, match=r"04_d: exception: FileNotFoundError.*ignored\.txt"):
        reproduce("latest", ["04_d"])
    check_nothing_is_left(home)


def test_ctrl_c_leaves_nothing_behind(home, tmp_path):
    edit(home, lambda record: record["steps"]["01_a"]["parameters"].update(SLEEP=300.0))
    temporary = tmp_path / "temporary"
    process = subprocess.Popen(
        [sys.executable, "-m", "nivesh_lib", "reproduce", "latest", "--step", "01_a"],
        env=os.environ | {"TMPDIR": str(temporary), "PYTHONPATH": str(REPOSITORY)},
        stderr=subprocess.DEVNULL,
    )
    for _ in range(1200):
        if list(temporary.glob("*/worktree/reports/runs/*/logs/01_a.log")):
            break
        time.sleep(0.1)
    else:
        process.kill()
        pytest.fail("no notebook was started")
    process.send_signal(signal.SIGINT)
    assert process.wait(60) not in (0, 1, 2)
    time.sleep(1)
    check_nothing_is_left(home)


# --- releases ----------------------------------------------------------------------------------


def release(home, **fields):
    """Write the package of a release of the run's step 01_a."""
    folder = home / "reports" / "releases" / "toy_classifier" / "1.0.0"
    record = json.loads((only_run(home) / "run.json").read_text())
    shutil.copytree(only_run(home) / "models" / "01_a", folder / "model")
    unused = dict.fromkeys(["digest", "kind", "algorithm", "predecessor", "who", "why"], "")
    unused |= {name: [] for name in ("labels", "response", "slices", "openings", "bump", "changes")}
    unused |= {name: {} for name in ("metrics", "gates", "environment")}
    content = {
        **unused, "name": "toy_classifier", "version": "1.0.0", "created": "", "rows": 0,
        "temperature": None, "min_confidence": None, "in_place": None, "size_bytes": 1,
        "train_seconds": 1.0, "base": model_hash(folder / "model"), "dataset": "toy@1.0.0",
        "data_sha256": record["dataset"]["sha256"], "commit": record["git"]["commit"],
        "lock_sha256": "", "run": record["run"], "step": "01_a",
        "parameters": record["steps"]["01_a"]["parameters"],
    }  # fmt: skip
    (folder / "release.json").write_text(json.dumps(content | fields))


def test_a_release_whose_run_is_gone_is_trained_again(home, run):
    release(home)
    shutil.rmtree(home / "reports" / "runs")
    done = run("reproduce", "1.0.0")
    assert done.returncode == 0 and "every file of the model" in done.stdout
    assert "requirements.lock of that commit is not the one" in done.stdout


def test_a_release_is_compared_with_its_run_while_that_is_there(home, again):
    release(home)
    (verdict,) = reproduce("toy_classifier/1.0.0").verdicts
    assert (verdict.compared, verdict.rows > 9) == ("out-of-fold predictions", True)


@pytest.mark.parametrize(("temperature", "verdict"), [(None, "equal"), (2.0, "different")])
def test_other_files_of_a_model_may_give_the_same_answers(home, again, temperature, verdict):
    release(home, base="0" * 64, temperature=temperature)
    (found,) = reproduce("1.0.0").verdicts
    assert (found.verdict, found.rows > 9) == (verdict, True)
    assert found.compared.startswith("answers of the released model to the training queries")


# --- changes that were not committed ----------------------------------------------------------


def test_the_patch_of_a_run_is_applied_to_its_commit(home, again, monkeypatch):
    (home / "shift.txt").write_text("5\n")
    edit(home, of("git", dirty=True, patch=git(home, "diff", "HEAD") + "\n"))
    git(home, "commit", "-q", "-a", "-m", "later")
    (home / "shift.txt").write_text("6\n")
    kept, seen = module._run_again, []

    def look(worktree, *arguments):
        seen.append((worktree / "shift.txt").read_text())
        return kept(worktree, *arguments)

    monkeypatch.setattr(module, "_run_again", look)
    assert reproduce("latest").succeeded and seen == ["5\n"]
    assert (home / "shift.txt").read_text() == "6\n"


def test_changes_of_which_no_patch_is_kept_are_refused(home):
    edit(home, lambda record: record["git"].update(dirty=True, patch=None))
    with pytest.raises(NiveshError, match="neither committed nor kept"):
        reproduce("latest")


# --- what is refused ---------------------------------------------------------------------------


def of(place, **fields):
    return lambda record: record[place].update(fields)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (of("git", commit="0" * 40), "commit 0000.* is not here.*unshallow"),
        (of("git", commit=""), "was made without git"),
        (of("git", dirty=True, patch="no patch"), "the changes kept with it do not apply"),
        (of("dataset", sha256="0" * 64), "toy@1.0.0: sha256 .* is not that of then, 000"),
        (of("dataset", ref="other@1.0.0"), "There is no dataset 'other'"),
    ],
)
def test_a_run_that_cannot_be_made_again_is_refused(home, change, message):
    edit(home, change)
    with pytest.raises(NiveshError, match=message):
        reproduce("latest")
    check_nothing_is_left(home)


def test_notebooks_that_no_patch_keeps_are_refused(home):
    edit(home, of("git", dirty=True, patch=""))
    path = only_run(home) / "steps" / "01_a.json"
    finished = json.loads(path.read_text())
    finished["ingredients"]["notebook"] = "another"
    path.unlink()
    path.write_text(json.dumps(finished))
    with pytest.raises(NiveshError, match=r"uncommitted changes of 01_a\.ipynb are in no patch"):
        reproduce("latest")


@pytest.mark.parametrize(
    ("target", "step", "message"),
    [
        ("20200101-000000", [], "is no run"),
        ("9.9.9", [], r"9\.9\.9 is no release\(s\)\. There are: none"),
        ("latest", ["01_a", "05"], "has predictions of: 01_a, 02_b, 03_c, 04_d"),
    ],
)
def test_unknown_names_are_refused(home, target, step, message):
    with pytest.raises(NiveshError, match=message):
        reproduce(target, step)


def test_without_git_one_sentence_says_so(home, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(NiveshError, match="git is missing"):
        reproduce("latest")


def test_usage_errors_end_with_2(home, run):
    assert run("reproduce").returncode == 2


# --- the home that was not committed, and what is said -----------------------------------------


def test_data_that_was_not_committed_comes_from_the_home(home, again):
    git(home, "rm", "-q", "-r", "--cached", "data")
    (home / ".gitignore").write_text("data/\nreports/\nmlruns/\nignored.txt\n")
    git(home, "commit", "-q", "-a", "-m", "without data")
    edit(home, of("git", commit=git(home, "rev-parse", "HEAD")))
    assert reproduce("latest").succeeded


def test_the_text_shows_ten_rows_and_why_there_is_a_tolerance(home, again, run):
    rewrite(home, "02_b", lambda table: table.assign(save=table["save"] + 1e-6))
    swapped = {"save": "spend", "spend": "save"}
    rewrite(home, "03_c", lambda t: t.rename(columns=swapped))
    (only_run(home) / "oof" / "04_d.parquet").write_bytes(
        (only_run(home) / "oof" / "01_a.parquet").read_bytes()
    )
    done = run("reproduce", "latest")
    rows = len(pd.read_parquet(only_run(home) / "oof" / "03_c.parquet"))
    assert f"03_c: {rows} of {rows} rows change label" in done.stdout
    assert done.stdout.count("spend -> save") == 10
    assert f"and {rows - 10} more" in done.stdout
    assert f"at most {TOLERANCE:g} apart" in done.stdout and "32-bit" in done.stdout


# --- tables ------------------------------------------------------------------------------------


def table(*save, dtype="float64"):
    values = np.array(save, dtype=dtype)
    ids = [f"r{n}" for n in range(len(save))]
    return pd.DataFrame({"id": ids, "fold": 0, "save": values, "spend": 1 - values})


@pytest.mark.parametrize(
    ("now", "verdict", "changed"),
    [
        (table(0.25, 0.75), "equal", []),
        (table(0.25, 0.75)[::-1], "equal", []),
        (table(0.25, 0.75 + TOLERANCE / 2), "within tolerance", []),
        (table(np.nextafter(0.25, 1), 0.75), "within tolerance", []),
        (table(0.25, 0.75 + TOLERANCE * 2), "different", ["r1"]),
        (table(0.26, 0.45), "different", ["r1", "r0"]),
        (table(0.27, 0.72), "different", ["r1", "r0"]),
    ],
)
def test_the_verdict_follows_from_labels_and_differences(now, verdict, changed):
    found = compare("x", table(0.25, 0.75), now, "answers")
    assert (found.verdict, [row["id"] for row in found.changed]) == (verdict, changed)


def test_a_changed_label_is_different_however_small_the_difference():
    before, now = table(0.5 + 1e-9), table(0.5 - 1e-9)
    assert compare("x", before, now, "answers").verdict == "different"


@pytest.mark.parametrize(
    ("now", "detail"),
    [
        (table(0.25), "1 rows in the re-run, 2 in the record"),
        (None, "0 rows in the re-run"),
        (table(0.25, 0.75).rename(columns={"save": "keep"}), "different labels"),
        (table(0.25, 0.75).assign(fold=1), "different folds"),
        (table(0.25, np.nan), "not a number"),
    ],
)
def test_tables_that_do_not_match_are_different_and_say_why(now, detail):
    found = compare("x", table(0.25, 0.75), now, "answers")
    assert found.verdict == "different" and detail in found.detail


# --- the shipped notebooks ---------------------------------------------------------------------


@pytest.mark.slow
def test_notebooks_02_and_03_are_reproduced(tmp_path, monkeypatch):
    """On the committed code: a clone stands for another checkout of the project."""
    monkeypatch.setattr(tempfile, "tempdir", None)
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", "--shared", str(REPOSITORY), str(clone))
    environment = os.environ | {"NIVESH_HOME": str(clone), "PYTHONPATH": str(clone)}
    environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{tmp_path}/mlruns/mlflow.db"

    def nivesh(*arguments):
        command = [sys.executable, "-m", "nivesh_lib", *arguments]
        options = {"capture_output": True, "text": True}
        return subprocess.run(command, cwd=clone, env=environment, **options)

    made = json.loads(nivesh("run", "--only", "03_tfidf", "--json").stdout)
    done = nivesh("reproduce", made["run"], "--json")
    assert done.returncode == 0, done.stderr
    verdicts = {one["step"]: one["verdict"] for one in json.loads(done.stdout)["verdicts"]}
    assert verdicts == {"02_baseline": "equal", "03_tfidf": "equal"}
