"""``nivesh predict`` on files and streams; what it says of single texts is in test_cli.py."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from nivesh_lib.cli.app import app
from nivesh_lib.data.publishing import publish
from nivesh_lib.errors import DataError, ModelError
from nivesh_lib.models.base import get_model

X = ["save tax now", "tax refund", "pay rent", "rent is high"]
Y = ["tax", "tax", "rent", "rent"]


@pytest.fixture
def model(tmp_path):
    return get_model("tfidf").fit(X, Y).save(tmp_path / "model")


def predict(*arguments, **options):
    return CliRunner().invoke(app, ["predict", *map(str, arguments)], **options)


def answered(output):
    return [json.loads(line) for line in output.splitlines()]


def started(*arguments):
    command = [sys.executable, "-m", "nivesh_lib", "predict", *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def test_answers_of_a_file_carry_row_and_id_in_its_order(tmp_path, model):
    (tmp_path / "q.csv").write_text("id,question\na,tax?\nb,\nc,rent?\n")
    done = predict("--input", tmp_path / "q.csv", "--text", "question", "--model", model, "--json")
    answers = answered(done.output)
    assert [(a["row"], a["id"]) for a in answers] == [(1, "a"), (2, "b"), (3, "c")]
    assert [answers[0]["intent"], answers[2]["intent"]] == ["tax", "rent"]
    assert list(answers[0]) == ["intent", "confidence", "alternatives", "row", "id"]


def test_without_json_there_is_a_line_to_read_for_each_text(model):
    done = predict("--input", "-", "--model", model, input="tax?\n\nrent?\n")
    lines = done.output.splitlines()
    assert len(lines) == 3 and lines[0].startswith("tax 0.") and lines[2].startswith("rent 0.")


def test_answers_do_not_depend_on_blocks(tmp_path, model):
    texts = [X[n % 4] for n in range(600)]
    (tmp_path / "q.txt").write_text("\n".join(texts))
    answers = answered(predict("--input", tmp_path / "q.txt", "--model", model, "--json").output)
    assert [a["intent"] for a in answers] == [Y[n % 4] for n in range(600)]
    assert [a["row"] for a in answers] == list(range(1, 601))


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_answers_do_not_depend_on_the_batch_size(tmp_path, model, size):
    (tmp_path / "q.txt").write_text("\n".join(X * 30))
    arguments = ["--input", tmp_path / "q.txt", "--model", model, "--json"]
    done = predict(*arguments, "--batch-size", size)
    assert answered(done.output) == answered(predict(*arguments).output)


def test_a_batch_holds_at_least_one_query(tmp_path, model):
    done = predict("tax?", "--model", model, "--batch-size", 0)
    assert done.exit_code == 2 and "--batch-size" in done.output


def test_a_bar_is_shown_on_request_and_answers_stay_as_they_are(tmp_path, model):
    (tmp_path / "q.txt").write_text("\n".join(X * 30))
    arguments = ["--input", tmp_path / "q.txt", "--model", model]
    plain, with_bar = predict(*arguments), predict(*arguments, "--progress")
    assert plain.stderr == "" and "queries" in with_bar.stderr
    assert plain.stdout == with_bar.stdout and len(plain.stdout.splitlines()) == 120


def test_answers_appear_while_the_input_is_still_open(model):
    process = started("--input", "-", "--model", model, "--json")
    process.stdin.write("tax?\n" * 256)
    process.stdin.flush()
    rows = [json.loads(process.stdout.readline())["row"] for _ in range(256)]
    assert rows == list(range(1, 257)) and process.poll() is None
    rest, errors = process.communicate("rent?\n", timeout=60)
    assert json.loads(rest)["row"] == 257 and errors == "" and process.returncode == 0


def test_a_reader_that_has_seen_enough_ends_it_quietly(tmp_path, model):
    (tmp_path / "q.txt").write_text("tax?\n" * 20_000)
    process = started("--input", tmp_path / "q.txt", "--model", model, "--json")
    assert json.loads(process.stdout.readline())["row"] == 1
    process.stdout.close()
    assert (process.wait(timeout=60), process.stderr.read()) == (0, "")
    process.stdin.close()
    process.stderr.close()


def test_answers_before_a_bad_row_are_printed_and_the_exit_code_is_1(tmp_path, model, run):
    (tmp_path / "q.csv").write_text("query\n" + "tax?\n" * 300 + "tax,rent\nrent?\n")
    done = run("predict", "--input", tmp_path / "q.csv", "--model", model)
    assert done.returncode == 1 and len(done.stdout.splitlines()) == 300
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert "q.csv, row 301 (line 302)" in done.stderr


def test_output_is_written_whole_or_not_at_all(tmp_path, model):
    (tmp_path / "good.txt").write_text("tax?\nrent?\n")
    (tmp_path / "bad.txt").write_bytes(b"tax?\n\xff\n")
    before = {path.name for path in tmp_path.iterdir()}
    with pytest.raises(DataError, match="line 2"):
        predict(
            "--input", tmp_path / "bad.txt", "--output", tmp_path / "a.jsonl", "--model", model,
            catch_exceptions=False,
        )  # fmt: skip
    assert {path.name for path in tmp_path.iterdir()} == before
    arguments = ["--input", tmp_path / "good.txt", "--output", tmp_path / "a.jsonl", "--json"]
    done = predict(*arguments, "--model", model)
    assert done.exit_code == 0 and done.output == ""
    assert [a["row"] for a in answered((tmp_path / "a.jsonl").read_text())] == [1, 2]
    assert {path.name for path in tmp_path.iterdir()} == before | {"a.jsonl"}


def test_an_existing_output_is_kept_unless_told_otherwise(tmp_path, model):
    target = tmp_path / "a.txt"
    target.write_text("mine")
    with pytest.raises(DataError, match="--overwrite"):
        predict("tax?", "--output", target, "--model", model, catch_exceptions=False)
    assert target.read_text() == "mine"
    assert predict("tax?", "--output", target, "--overwrite", "--model", model).exit_code == 0
    assert target.read_text().startswith("tax 0.")


def test_a_dash_prints(tmp_path, model, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = predict("tax?", "--output", "-", "--model", model)
    assert done.output.startswith("tax 0.") and not (tmp_path / "-").exists()


@pytest.mark.parametrize("closed", ["2>&-", "<&-"])
def test_a_stream_that_was_closed_stops_nothing_that_needs_it_not(tmp_path, model, closed):
    (tmp_path / "q.txt").write_text("tax?\n")
    command = [sys.executable, "-m", "nivesh_lib", "predict", "--model", str(model)]
    lines = f'"$@" --input {tmp_path / "q.txt"} {closed}'
    done = subprocess.run(["bash", "-c", lines, "-", *command], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("tax 0.")


def test_closed_standard_input_is_told(model):
    command = [sys.executable, "-m", "nivesh_lib", "predict", "--model", str(model)]
    lines = '"$@" --input - <&-'
    done = subprocess.run(["bash", "-c", lines, "-", *command], capture_output=True, text=True)
    assert done.returncode == 2 and "standard input is closed" in done.stderr


def test_only_a_regular_file_is_replaced(tmp_path, model):
    with pytest.raises(DataError, match="no regular file"):
        predict(
            "tax?", "--output", "/dev/null", "--overwrite", "--model", model,
            catch_exceptions=False,
        )  # fmt: skip


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["tax?", "--input", "q.csv"],
        ["tax?", "--text", "query"],
        ["--input", "-", "--delimiter", ";"],
        ["--input", "q.csv", "--output", "q.csv", "--overwrite"],
    ],
)
def test_options_that_do_not_go_together_are_wrong_usage(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "q.csv").write_text("query\ntax?\n")
    done = predict(*arguments)
    assert done.exit_code == 2 and "Error" in done.output
    assert (tmp_path / "q.csv").read_text() == "query\ntax?\n"


def test_a_model_of_the_store_answers_and_a_damaged_one_is_named(tmp_path, model, monkeypatch):
    from nivesh_lib.tracking import models as registry

    monkeypatch.setattr(registry, "fetch_model", {"models:/intent@best": model}.get)
    assert predict("tax?", "--model", "models:/intent@best").output.startswith("tax 0.")
    (model / "vocabulary.json").unlink()
    with pytest.raises(ModelError, match=r"models:/intent@best: .*vocabulary\.json is missing"):
        predict("tax?", "--model", "models:/intent@best", catch_exceptions=False)


@pytest.mark.parametrize("name", ["-", "hard.json"])
def test_a_published_holdout_is_neither_standard_input_nor_behind_another_name(
    home, make_rows, model, name
):
    file = publish(make_rows(60), "mine", "1.0.0", description="").folder / "mine.json"
    (home / "hard.json").hardlink_to(file)
    command = [sys.executable, "-m", "nivesh_lib", "predict", "--model", str(model), "--input"]
    with file.open() as opened:
        done = subprocess.run(
            [*command, name], stdin=opened, cwd=home, capture_output=True, text=True
        )
    assert done.returncode == 1 and "is the published file of mine@1.0.0" in done.stderr
    assert done.stdout == ""
