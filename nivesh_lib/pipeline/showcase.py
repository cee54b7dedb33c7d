"""Update notebooks, example report and README's tables from one run: ``make showcase``.

The example report is a copy of the last good run's pages, the committed notebooks are those that
it executed; the tables of the README are written from it and from ``pipeline.toml``.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

from nivesh_lib import paths
from nivesh_lib.data.versions import load_dataset
from nivesh_lib.errors import NiveshError, SpecError
from nivesh_lib.files import write_text
from nivesh_lib.models.base import get_model
from nivesh_lib.pipeline.refresh import take_over
from nivesh_lib.pipeline.spec import load_pipeline
from nivesh_lib.reporting.figures import figure_of
from nivesh_lib.runs.comparison import score_title
from nivesh_lib.runs.directories import latest_run
from nivesh_lib.runs.layout import RunDirectory
from nivesh_lib.runs.leaderboard import leaderboard, score_names
from nivesh_lib.serving.predictor import Predictor, as_line
from nivesh_lib.wording import human_bytes, milliseconds, model_name

QUERIES = (
    "Can I afford a ₹50L home loan?",
    "where did all my money go this month",
    "bachche ki padhai ke liye kitna bachana chahiye",
    "Is a term plan of 1 crore enough for me?",
    "which tax regime should I choose",
)


def example() -> RunDirectory:
    """Return the committed example report."""
    return RunDirectory(paths.reports_dir() / "example")


def copy_example(run: RunDirectory) -> None:
    """Replace the example by the pages and records of a run, and a small model of its data."""
    target = example()
    shutil.rmtree(target.path, ignore_errors=True)
    for path in run.shown():
        place = target.path / path.relative_to(run.path)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)
    ref = target.record().dataset.ref
    rows = load_dataset(ref).train
    model = get_model("static").fit(rows["query"], rows["intent"])
    model.save(paths.shipped_model(), data=ref)
    _draw(target)
    # Without the address of the store on the machine that made it.
    target.write_record(target.record().changed(mlflow_uri=""))


def _draw(target: RunDirectory) -> None:
    """Write the README's pictures: the first screen of the report, and accuracy against time."""
    paths.pictures_dir().mkdir(exist_ok=True)
    for result in target.results().values():
        for finding in (one for one in result.findings if one.name == "recommendation"):
            picture = paths.pictures_dir() / "accuracy_and_time.png"
            figure_of(finding).savefig(picture, dpi=90, bbox_inches="tight")
    from PIL import Image

    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        sys.stderr.write("no chromium: the picture of the report stays as it was\n")
        return
    page, picture = target.index.resolve(), paths.pictures_dir() / "report.png"
    options = ["--headless", "--no-sandbox", "--hide-scrollbars", "--window-size=1280,900"]
    subprocess.run(
        [browser, *options, f"--screenshot={picture}", page.as_uri()],
        check=True,
        capture_output=True,
        timeout=60,
    )
    with Image.open(picture) as image:  # a third of the bytes
        image.convert("RGB").quantize(64).save(picture, optimize=True)


def notebook_table() -> str:
    """Return the README's table of notebooks, from ``pipeline.toml``."""
    rows = ["| notebook | question | needs |", "|---|---|---|"]
    for step in load_pipeline(paths.notebooks_dir()).steps:
        needs = ", ".join(step.needs) or "nothing"
        rows.append(f"| [{step.name}](notebooks/{step.name}.ipynb) | {step.help} | {needs} |")
    return "\n".join(rows)


def results_table(run: RunDirectory) -> str:
    """Return the README's table of results, from the records of a run."""
    record, board = run.record(), leaderboard(run.results())
    names = score_names(entry.scores for entry in board)
    titles = " | ".join(score_title(name) for name in names)
    rows = [
        f"On {record.dataset.ref}, profile {record.profile}, out of fold over natural "
        "training rows, 95 % intervals:",
        "",
        f"| model | {titles} | one query, p95 | size on disk |",
        "|---" * (3 + len(names)) + "|",
    ]
    for entry in board:
        scores = " | ".join(str(entry.scores.get(name, "-")) for name in names)
        time, size = milliseconds(entry.p95_ms), human_bytes(entry.size_bytes)
        rows.append(f"| {model_name(entry.model)} | {scores} | {time} | {size} |")
    return "\n".join(rows)


def label_table(run: RunDirectory) -> str:
    """Return the README's table of labels with an example each, as notebook 01 found them."""
    found = (one for result in run.results().values() for one in result.findings)
    balance = next(one for one in found if one.name == "balance")
    rows = [f"| {row['label']} | {row['for example']} |" for row in balance.cells]
    return "\n".join(["| label | for example |", "|---|---|", *rows])


def answers() -> str:
    """Return queries with the answers of the model that ships."""
    found = Predictor.from_directory(paths.shipped_model()).predict(QUERIES)
    rows = (
        f"| {query} | {as_line(answer)} |" for query, answer in zip(QUERIES, found, strict=True)
    )
    return "\n".join(["| query | answer |", "|---|---|", *rows])


def filled(readme: str) -> str:
    """Return the README's text with its generated tables written anew."""
    tables = {
        "answers": answers(),
        "labels": label_table(example()),
        "notebooks": notebook_table(),
        "results": results_table(example()),
    }
    for name, table in tables.items():
        parts = re.split(rf"(<!-- {name}:start[^>]*-->\n|<!-- {name}:end -->)", readme)
        if len(parts) != 5:
            raise SpecError(f"README.md: no markers {name}:start and {name}:end")
        readme = "".join([*parts[:2], table + "\n", *parts[3:]])
    return readme


def main() -> int:
    """Copy the last good run and its notebooks, and rewrite the README's tables."""
    run = latest_run()
    if not run.index.is_file():
        sys.stderr.write("error: no good run yet. `make run` makes one\n")
        return 1
    try:
        take_over(run)
    except NiveshError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    copy_example(run)
    readme = paths.home() / "README.md"
    write_text(readme, filled(readme.read_text(encoding="utf-8")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
