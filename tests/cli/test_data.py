from __future__ import annotations

import json
import subprocess
import sys

import pandas as pd
import pytest
from typer.testing import CliRunner

from nivesh_lib.cli.app import data_app
from nivesh_lib.cli.options import echo_json
from nivesh_lib.data.publishing import publish
from nivesh_lib.data.versions import load_dataset, resolve
from nivesh_lib.errors import DataError, NiveshError


@pytest.fixture
def call(home):
    """Run ``nivesh data …`` as the command line does: errors become code 1."""

    def run(*arguments):
        result = CliRunner().invoke(data_app, [str(argument) for argument in arguments])
        if isinstance(result.exception, NiveshError):
            return 1, f"error: {result.exception}"
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result.exit_code, result.stdout if result.exit_code == 0 else result.output

    return run


@pytest.fixture
def file(tmp_path, make_rows):
    path = tmp_path / "rows.csv"
    make_rows(60).to_csv(path, index=False)
    return path


@pytest.fixture
def published(home, make_rows):
    return publish(make_rows(60), "mine", "1.0.0", description="first")


def test_a_file_becomes_a_version(call, file):
    code, output = call("add", "mine", file, "--version", "1.0.0")
    assert code == 0
    assert output.startswith("mine@1.0.0: 60 rows, 12 of them held out, 3 labels. Next: nivesh run")
    assert len(load_dataset("mine").train) == 48


def test_foreign_columns_a_test_file_and_metadata(call, tmp_path, make_rows):
    for name, rows in {"train": make_rows(30), "test": make_rows(9, seed=1)}.items():
        rows = rows.assign(seg="low").rename(columns={"query": "text", "intent": "category"})
        rows.to_csv(tmp_path / f"{name}.csv", index=False, sep=";")
    code, output = call(
        "add", "mine", tmp_path / "train.csv", "--version", "1.0.0", "--text", "text", "--label",
        "category", "--map", "seg=income_segment", "--holdout", tmp_path / "test.csv",
        "--delimiter", ";", "--licence", "CC0-1.0", "--source", "a", "--source", "b",
        "--description", "mine", "--labels", "tax_planning,goal_planning,loan_inquiry", "--json",
    )  # fmt: skip
    facts = json.loads(output)
    assert code == 0
    assert (facts["rows"], facts["held_out"], facts["licence"]) == (39, 9, "CC0-1.0")
    assert (facts["sources"], facts["labels"][1]) == (["a", "b"], "goal_planning")
    assert set(load_dataset("mine").train["income_segment"]) == {"low"}


def test_personal_data_beside_the_query_is_replaced_and_told(home, make_rows):
    kept = {
        "income_segment": "98765/43210",
        "language": "hi &#57;876543210",
        "source": "a@b.in",
        "traits": "PAN АВСРЕ1234Н",
    }
    with pytest.warns(UserWarning) as told:
        publish(make_rows(30).assign(**kept), "mine", "1.0.0", description="")
    assert str(told[0].message).startswith("income_segment held personal data in 30 new rows, now")
    train = load_dataset("mine").train
    assert train.iloc[0][list(kept)].tolist() == ["[PHONE]", "hi [PHONE]", "[EMAIL]", "PAN [PAN]"]


@pytest.mark.parametrize("column", ["id", "intent", "created_at"])
def test_personal_data_in_a_frame_s_ids_dates_and_labels_is_refused(home, make_rows, column):
    rows = make_rows(30).assign(id=[str(n) for n in range(30)], created_at="2026-01-25")
    rows.loc[4, column] = "9876543210"
    with pytest.raises(DataError, match=rf"row 5: {column} holds personal data \(PHONE\)"):
        publish(rows, "mine", "1.0.0", description="first")


def test_a_training_file_as_its_own_test_file_is_refused(call, home, file):
    code, output = call("add", "mine", file, "--version", "1.0.0", "--holdout", file)
    assert code == 1
    assert "60 of 60 held-out rows (100.0%, more than 10%) have exactly the text" in output
    assert "would measure memory. Remove them from one of the files." in output
    assert not list(home.glob("data/mine/v*"))


def test_rows_are_added_to_a_version(call, published, tmp_path, make_rows):
    make_rows(20, seed=1).to_json(tmp_path / "new.json", orient="records")
    code, _ = call("add", "mine", tmp_path / "new.json", "--version", "1.1.0", "--extends", "1.0.0")
    assert code == 0
    assert (resolve("mine").parent, resolve("mine").rows) == ("1.0.0", 80)


def test_repeated_rows_are_dropped_when_asked(call, published, tmp_path, make_rows):
    known = load_dataset("mine").train[["query", "intent"]].head(2)
    new = make_rows(10, seed=1)
    pd.concat([known, new, new.head(3)]).to_csv(tmp_path / "new.csv", index=False)
    arguments = ("add", "mine", tmp_path / "new.csv", "--version", "1.1.0", "--extends", "1.0.0")
    assert "repeats row 3" in call(*arguments)[1]
    assert call(*arguments, "--drop-duplicates")[0] == 0
    assert resolve("mine").rows == 70


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--version", "1.0.0"], "mine@1.0.0 exists and is never edited"),
        (
            ["--version", "1.1.0", "--label", "category"],
            "no column 'category'; it has query, intent",
        ),
        (["--version", "1.1.0", "--labels", "a,b"], "'tax_planning' is not in the taxonomy"),
        (["--version", "1.1.0", "--extends", "9.0.0"], "mine has no version 9.0.0; it has 1.0.0"),
        (["--version", "1.1.0", "--map", "x=income_segment"], "no column 'x'"),
        (["--version", "1.1.0", "--map", "query=colour"], "choose id, income_segment"),
        (["--version", "1.1.0", "--holdout", "none.csv"], "none.csv does not exist"),
        (["--version", "next"], "no version of the form 1.0.0"),
    ],
)
def test_a_version_that_cannot_be_published_is_explained(call, published, file, options, message):
    code, output = call("add", "mine", file, *options)
    assert code == 1
    assert message in output


def test_a_label_without_rows_and_hard_rows_alone_write_nothing(call, home, file, make_rows):
    labels = "tax_planning,loan_inquiry,goal_planning,gold"
    code, output = call("add", "mine", file, "--version", "1.0.0", "--labels", labels)
    assert code == 1 and "No row has the label 'gold'" in output
    make_rows(60, selection="hard").to_csv(file, index=False)
    code, output = call("add", "mine", file, "--version", "1.0.0")
    assert code == 1 and "every other training row have selection 'hard'" in output
    assert not list(home.glob("data/mine/v*"))


def test_other_labels_without_extends_are_named(call, published, tmp_path, make_rows):
    make_rows(20, seed=1, labels=("gold", "silver")).to_csv(tmp_path / "a.csv", index=False)
    code, output = call("add", "mine", tmp_path / "a.csv", "--version", "1.1.0")
    assert code == 1
    assert "'gold' is new, 'silver' is new, 'goal_planning' is gone" in output
    assert "--extends" in output


@pytest.mark.parametrize("arguments", [["add", "mine"], ["show"], ["add", "m", "f", "--version"]])
def test_a_wrong_call_has_code_2(call, arguments):
    assert call(*arguments)[0] == 2


def test_a_column_that_is_mapped_twice_is_a_wrong_call(call, file):
    maps = ("--map", "seg=income_segment", "--map", "seg=language")
    code, output = call("add", "mine", file, "--version", "1.0.0", *maps)
    assert code == 2 and "--map names seg twice" in output


@pytest.mark.parametrize("command", [["add", "mine"], ["validate"]])
def test_one_column_for_texts_and_labels_is_refused_without_a_word_of_it(call, file, command):
    options = ["--version", "1.0.0"] if command[0] == "add" else []
    code, output = call(*command, file, *options, "--label", "query")
    assert code == 1
    assert output.startswith("error: --text and --label both name the column 'query'; one holds")


def test_a_map_without_a_target_is_a_wrong_call(call, file):
    assert call("add", "mine", file, "--version", "1.0.0", "--map", "seg")[0] == 2


def test_every_version_is_listed(call, published):
    assert "mine@1.0.0" in call("list")[1]
    assert json.loads(call("list", "--json")[1])[0]["held_out"] == 12


def test_an_empty_home_names_the_first_command(call):
    assert "nivesh data add NAME FILE" in call("list")[1]


def test_a_version_is_shown_without_its_held_out_rows(call, published):
    code, output = call("show", "mine")
    facts = json.loads(call("show", "mine", "--json")[1])
    assert code == 0
    assert "48 training" in output
    train = set(load_dataset("mine").train["query"])
    assert {example["query"] for example in facts["examples"]} <= train
    assert not any(row_id in json.dumps(facts) for row_id in published.manifest["holdout"])


def test_shown_queries_are_anonymised(call, make_rows):
    rows = make_rows(60).assign(query=lambda d: d["query"] + " mail asha.rao@example.com")
    publish(rows, "mine", "1.0.0", description="")
    assert "asha.rao" not in call("show", "mine")[1]


def test_validation_has_code_1_where_data_are_not_fit(call, published, tmp_path, make_rows):
    make_rows(9, labels=("one",)).to_csv(tmp_path / "bad.csv", index=False)
    assert call("validate", "mine")[0] == 0
    code, output = call("validate", tmp_path / "bad.csv", "--json")
    assert (code, json.loads(output)["valid"]) == (1, False)


def test_two_versions_are_compared(call, published, make_rows):
    extended = load_dataset("mine").train.assign(side=None)
    publish(make_rows(20, seed=1), "mine", "1.1.0", description="", parent="1.0.0")
    corrected = pd.concat([extended, make_rows(20, seed=2)])[["id", "query", "intent"]]
    corrected.iloc[0, 2] = (
        "loan_inquiry" if corrected.iloc[0, 2] != "loan_inquiry" else "tax_planning"
    )
    publish(corrected, "mine", "2.0.0", description="")
    facts = json.loads(call("diff", "mine@1.0.0", "mine@2.0.0", "--json")[1])
    assert (facts["added"], facts["removed"], len(facts["relabelled"])) == (20, 12, 1)
    assert "20 rows added, 0 removed" in call("diff", "mine@1.0.0", "mine@1.1.0")[1]
    [row] = facts["relabelled"]
    assert (row["id"], row["to"]) == (corrected["id"].iloc[0], corrected["intent"].iloc[0])
    assert (
        f"  {row['id']}: {row['from']} -> {row['to']}: {row['query']}"
        in call("diff", "mine@1.0.0", "mine@2.0.0")[1].splitlines()
    )


def test_validation_finds_leaks_of_a_file_and_of_a_version(call, tmp_path, make_rows):
    rows = make_rows(60)
    leaky = rows["query"].where(rows["intent"] != "tax_planning", rows["query"] + " tax_planning")
    rows.assign(query=leaky).to_csv(tmp_path / "leaky.csv", index=False)
    code, output = call("validate", tmp_path / "leaky.csv")
    assert code == 1 and "20 of 20 rows of tax_planning that say their own label" in output
    test = make_rows(20, seed=1)
    test.loc[0, ["query", "intent"]] = [rows["query"][0].upper(), rows["intent"][0]]
    with pytest.warns(UserWarning, match="in training too"):
        publish(rows, "mine", "1.0.0", description="", holdout_rows=test)
    code, output = call("validate", "mine", "--json")
    assert (code, json.loads(output)["issues"]) == (
        1,
        ["Found 1 held-out row whose text is in training too"],
    )


@pytest.mark.parametrize("command", ["list", "show", "validate", "review", "add", "diff"])
def test_every_help_has_an_example(call, command):
    assert f"Example: nivesh data {command}" in call(command, "--help")[1]


def test_starting_the_commands_loads_no_heavy_library():
    code = (
        "import sys, nivesh_lib.cli.data;"
        "print(sorted({'pandas', 'numpy', 'sklearn', 'pandera', 'fsspec'} & set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_a_store_without_a_scheme_is_refused_before_anything_is_written(call, home, file):
    code, output = call("add", "mine", file, "--version", "1.0.0", "--store", "foo")
    assert code == 2 and "s3://bucket/folder" in output
    assert not list(home.glob("data/mine/v*"))


def test_a_label_that_tables_need_as_a_column_is_refused(call, tmp_path, make_rows):
    path = tmp_path / "rows.csv"
    make_rows(20, labels=("fold", "other")).to_csv(path, index=False)
    code, output = call("add", "mine", path, "--version", "1.0.0")
    assert code == 1 and "rows.csv: a label cannot be called 'fold'" in output


HOSTILE = "\x1b[31mred\nerror: all is lost\u202e"


@pytest.mark.parametrize(
    "arguments",
    [("list",), ("show", "mine"), ("validate", "mine"), ("diff", "mine@1.0.0", "mine@2.0.0")],
    ids=lambda arguments: arguments[0],
)
def test_labels_and_descriptions_cannot_command_the_terminal(call, make_rows, arguments):
    labels = ("plain", HOSTILE)
    rows = make_rows(60, labels=labels)
    rows["query"] += " " + rows["intent"].map({"plain": "so", HOSTILE: "#mark"})
    for version in ("1.0.0", "2.0.0"):
        publish(rows.iloc[: int(version[0]) * 30], "mine", version, description=HOSTILE)
    output = call(*arguments)[1]
    assert "\\x1b[31mred\\nerror: all is lost\\u202e" in output
    assert "\x1b" not in output and "\u202e" not in output and "\nerror" not in output


def test_json_holds_labels_as_they_are(call, make_rows):
    publish(make_rows(60, labels=("plain", HOSTILE)), "mine", "1.0.0", description="half")
    code, output = call("show", "mine", "--json")
    assert code == 0 and HOSTILE in json.loads(output)["labels"]


def test_json_holds_half_a_surrogate_pair_as_an_escape(capsys):
    echo_json({"a": "half \ud83d"})
    assert json.loads(capsys.readouterr().out) == {"a": "half \ud83d"}


def test_an_error_cannot_command_the_terminal(home, run):
    done = run("data", "show", "mine", "--json", "\x1b[31m")
    assert "\x1b" not in done.stderr
    done = run("data", "validate", home / "\x1b[31mnone.csv")
    assert done.returncode == 1 and "\\x1b[31mnone.csv" in done.stderr
    assert "\x1b" not in done.stderr


def test_rare_labels_are_refused_with_the_option_that_keeps_them_for_training(
    call, tmp_path, make_rows
):
    rare = make_rows(3, seed=1, labels=("solo", "pair", "pair"))
    path = tmp_path / "rows.csv"
    pd.concat([make_rows(60), rare]).to_csv(path, index=False)
    code, output = call("add", "mine", path, "--version", "1.0.0")
    assert code == 1 and "'solo'" in output and "--keep-rare" in output
    command = [str(part) for part in ("add", "mine", path, "--version", "1.0.0", "--keep-rare")]
    done = CliRunner().invoke(data_app, command)
    told = "2 of 5 labels are in training only, since they have fewer than 5 rows (3 in all): "
    assert done.exit_code == 0 and told + "pair (2), solo (1)" in done.stderr
    train = load_dataset("mine").train["intent"].value_counts()
    assert (train["pair"], train["solo"]) == (2, 1)
