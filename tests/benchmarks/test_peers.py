from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from nivesh_lib.errors import DataError
from tests.benchmarks import peer_candidates, peer_data, peer_tables, peers
from tests.benchmarks.peer_candidates import candidates

ENTRY = {"recipe": "svm", "params_sha256": "0", "commit": "c"}
LABELS = ["tax", "rent", "loan"] * 7


@pytest.fixture
def public(tmp_path: Path) -> Path:
    """A folder as that of the public data, with rows of our own."""
    folder = tmp_path / "public" / "banking77"
    folder.mkdir(parents=True)
    rows = [f"question {n} about {label},{label}" for n, label in enumerate(LABELS)]
    for name in ("train.csv", "test.csv"):
        (folder / name).write_text("\n".join(["text,category", *rows, ""]))
    return folder


def test_the_ledger_has_the_line_before_the_test_file_is_read(public, tmp_path, monkeypatch):
    ledger = tmp_path / "new" / "openings.jsonl"
    seen = []

    def read(path):
        seen.append(ledger.read_text().splitlines())
        raise OSError

    monkeypatch.setattr(peer_data, "read_table", read)
    with pytest.raises(OSError):
        peer_data.open_test(public / "test.csv", ledger, ENTRY)
    (line,) = seen[0]
    entry = json.loads(line)
    assert entry["recipe"] == "svm" and entry["commit"] == "c"
    assert entry["sha256"] == peer_data.sha256_of(public / "test.csv") and entry["date"]


def test_a_ledger_that_cannot_be_written_keeps_the_test_file_closed(public, tmp_path, monkeypatch):
    monkeypatch.setattr(peer_data, "read_table", lambda path: pytest.fail("it was read"))
    with pytest.raises(DataError):
        peer_data.open_test(public / "test.csv", tmp_path, ENTRY)


def test_openings_are_counted_for_recipe_and_file(public, tmp_path):
    ledger, path = tmp_path / "openings.jsonl", public / "test.csv"
    assert peer_data.openings(ledger, "svm", peer_data.sha256_of(path)) == (0, 0)
    for recipe in ("svm", "tfidf", "svm"):
        rows = peer_data.open_test(path, ledger, ENTRY | {"recipe": recipe})
    assert rows.labels == LABELS
    assert peer_data.openings(ledger, "svm", peer_data.sha256_of(path)) == (2, 3)
    assert peer_data.openings(ledger, "svm", "another file") == (0, 0)


def test_a_draw_has_k_rows_of_each_class_and_depends_on_its_seed_alone():
    drawn = peer_data.draw_shots(LABELS, 3, seed=1)
    assert Counter(LABELS[n] for n in drawn) == {"tax": 3, "rent": 3, "loan": 3}
    assert drawn == peer_data.draw_shots(LABELS, 3, seed=1)
    assert drawn != peer_data.draw_shots(LABELS, 3, seed=2)
    assert len(set(drawn)) == len(drawn)


def test_a_class_with_too_few_rows_is_named():
    with pytest.raises(DataError, match="'loan' has 7 rows"):
        peer_data.draw_shots(LABELS, 8, seed=0)


def test_without_the_data_one_line_says_how_to_name_it(monkeypatch, capsys, tmp_path):
    monkeypatch.delenv("NIVESH_BENCHMARKS", raising=False)
    assert peers.main(["--data", "banking77"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert "NIVESH_BENCHMARKS" in line and "--benchmarks DIR" in line
    assert "does not exist" in peer_data.public_folder(str(tmp_path))


def test_the_public_rows_become_folds_without_a_holdout_and_without_the_test_file(
    public, tmp_path, monkeypatch
):
    (public / "test.csv").unlink()
    monkeypatch.setenv("NIVESH_HOME", "before")
    source = peer_data.banking77(public, tmp_path / "home")
    assert len(source.train) == len(LABELS) and source.n_folds > 1
    train, held = source.split(0)
    assert len(train.texts) + len(held.texts) == len(LABELS)
    assert not set(train.texts) & set(held.texts)
    assert peer_data.os.environ["NIVESH_HOME"] == "before"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--candidates", "svm,magic"], "magic"),
        (["--parts", "speed"], "speed"),
        (["--test", "--data", "intents"], "nivesh release"),
        (["--test", "--rows", "100"], "--rows"),
        (["--folds", "0"], "not 1 or more"),
    ],
)
def test_wrong_options_are_refused_with_a_reason(arguments, message, capsys):
    with pytest.raises(SystemExit):
        peers.parsed(arguments)
    assert message in capsys.readouterr().err


def test_a_table_lines_up_and_has_no_trailing_blanks():
    text = peer_tables.table(["name", "s"], [["a", "10.0"], ["longer", "1"]])
    assert text.splitlines() == ["name       s", "------------", "a       10.0", "longer     1"]


def test_ratios_are_to_ours_and_the_worst_is_a_round_s():
    text = peer_tables.epoch_times({"ours": [1.0, 2.0, 4.0], "peer": [4.0, 4.0, 4.0]}, "ours")
    assert text.splitlines()[-1].split() == ["peer", "4.0", "4.0", "to", "4.0", "2.00", "1.00"]


def test_a_recipe_s_hash_follows_its_parameters():
    known = candidates()
    assert known["transformer"].sha256 != known["transformer-seed"].sha256
    assert known["svm"].sha256 == candidates()["svm"].sha256
    told = known["ensemble"].params["members"]["transformer"]  # a new default is a new recipe
    assert told == dict(known["transformer"].params)
    assert known["trainer-dynamic"].shortest().epochs == 1


def test_setfit_s_own_epoch_pairs_every_row_with_every_other_one():
    # Two of a and one of b: four like pairs, two unlike ones, and as many of these drawn again.
    assert peer_candidates.setfit_steps(["a", "a", "b"], batch_size=1) == 8


def test_the_linear_peer_learns(tmp_path):
    model = candidates()["svm"].fit([f"about {label}" for label in LABELS], LABELS)
    assert model.predict(["about rent"]) == ["rent"]
    model.save(tmp_path / "model")
    assert any((tmp_path / "model").iterdir())
