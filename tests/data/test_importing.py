from __future__ import annotations

import base64
import hashlib
import json
import os
import uuid

import pandas as pd
import pytest

from nivesh_lib.data.importing import drop_duplicates, read_rows, read_unchecked
from nivesh_lib.errors import DataError

ROWS = [
    {"query": "how to save tax", "intent": "tax"},
    {"query": "which section for rent", "intent": "tax"},
    {"query": "can i get a loan", "intent": "loan"},
    {"query": "home loan rates, 2026", "intent": "loan"},
]
CSV = 'query,intent\nhow to save tax,tax\nwhich section,tax\nget a loan,loan\n"rates, 2026",loan\n'


def jsonl(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def write_rows(tmp_path, ending, rows):
    path = tmp_path / f"rows{ending}"
    if ending == ".csv":
        pd.DataFrame(rows).to_csv(path, index=False)
    elif ending == ".parquet":
        pd.DataFrame(rows).to_parquet(path)
    else:
        path.write_text(json.dumps(rows) if ending == ".json" else jsonl(rows), "utf-8")
    return path


@pytest.mark.parametrize("ending", [".csv", ".json", ".jsonl", ".ndjson", ".parquet"])
def test_every_kind_gives_the_same_rows(tmp_path, ending):
    frame = read_rows(write_rows(tmp_path, ending, ROWS))
    assert frame.to_dict("records") == ROWS
    assert (frame.dtypes == "str").all()


def test_columns_are_mapped_and_unknown_ones_left_out(tmp_path):
    rows = [
        {"id": n, "t": row["query"], "l": row["intent"], "seg": "low", "x": "y"}
        for n, row in enumerate(ROWS)
    ]
    path = write_rows(tmp_path, ".json", rows)
    frame = read_rows(path, "t", "l", {"seg": "income_segment"})
    assert list(frame) == ["id", "query", "intent", "income_segment"]
    assert frame["id"].tolist() == ["0", "1", "2", "3"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"query": "source"}, "--map query=source: --text names this column"),
        ({"intent": "source"}, "--map intent=source: --label names this column"),
        ({"a": "source", "b": "source"}, "--map a=source and b=source: keep one of the two"),
    ],
)
def test_a_column_has_one_meaning_and_a_meaning_one_column(tmp_path, columns, message):
    path = write_rows(tmp_path, ".json", [{**row, "a": "x", "b": "y"} for row in ROWS])
    with pytest.raises(DataError, match=message):
        read_rows(path, columns=columns)


def test_a_column_that_an_option_names_is_not_read_under_its_own_name_too(tmp_path):
    rows = [{"source": r["query"], "language": r["intent"], "traits": "hi"} for r in ROWS]
    path = write_rows(tmp_path, ".json", rows)
    frame = read_rows(path, "source", "language", {"traits": "income_segment"})
    assert list(frame) == ["query", "intent", "income_segment"]


def test_texts_stay_raw_but_for_outer_white_space(tmp_path):
    rows = [*ROWS, {"query": "  ₹50L  Loan?\nनमस्ते ", "intent": "loan"}]
    assert read_rows(write_rows(tmp_path, ".json", rows))["query"].iloc[-1] == "₹50L  Loan?\nनमस्ते"


def test_missing_optional_cells_are_missing_values(tmp_path):
    rows = [
        {**row, "source": source} for row, source in zip(ROWS, ["a", None, "", "b"], strict=True)
    ]
    assert read_rows(write_rows(tmp_path, ".json", rows))["source"].isna().tolist() == [
        False,
        True,
        True,
        False,
    ]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", b"\xef\xbb\xbf" + CSV.encode()),
        ("a.json", b"\xef\xbb\xbf" + json.dumps(ROWS).encode()),
    ],
)
def test_a_utf8_byte_order_mark_is_accepted(tmp_path, name, content):
    assert list(read_rows(write(tmp_path, name, content))) == ["query", "intent"]


def test_other_delimiters_are_named(tmp_path):
    path = write(tmp_path, "a.csv", CSV.replace(", ", " ").replace(",", "\t"))
    assert len(read_rows(path, delimiter="tab")) == 4


def with_row(**row):
    return json.dumps([*ROWS, {"query": "a new text", "intent": "tax", **row}])


TWICE = '{"query": "x", "intent": "tax", "query": "y"}'
BAD = {
    "blank text": ("a.json", with_row(query=" "), r"row 5: 'query' is missing or blank"),
    "invisible text": ("a.json", with_row(query="\u200b\u3164\ufeff"), r"'query' is missing or bl"),
    "invisible label": ("a.json", with_row(intent="\u2060"), r"row 5: 'intent' is missing"),
    "key twice": ("a.json", f"[{TWICE}]", r"row 1: names the key 'query' twice"),
    "key twice in a line": ("a.jsonl", jsonl(ROWS) + TWICE, r"row 5 \(line 5\): names the key"),
    "half a pair in a label": ("a.json", with_row(intent="a\ud800"), r"row 5: 'intent' .* stored"),
    "half a pair in a name": ("a.json", '[{"a\\ud800": 1}]', r"no column 'query'; it has a\\ud800"),
    "null text": ("a.json", with_row(query=None), r"row 5: 'query' is missing"),
    "absent label": ("a.jsonl", jsonl([*ROWS, {"query": "x"}]), r"row 5 \(line 5\): 'intent' is"),
    "blank csv label": ("a.csv", CSV + "more,\n", r"row 5 \(line 6\): 'intent' is missing"),
    "many": ("a.csv", CSV + "more,\nmore,\nmore,\n", r"row 5 .*\(and 2 more rows\)"),
    "duplicate": ("a.csv", CSV + "get a loan,loan\n", r"row 5 \(line 6\): repeats row 3.*--drop"),
    "conflict": ("a.csv", CSV + "GET a  loan,tax\n", r"row 5 .*row 3 but label 'tax', not 'loan'"),
    "label case": ("a.csv", CSV + "more,Tax\n", r"'Tax' and 'tax' differ only by case"),
    "label space": ("a.csv", CSV + "more, tax\n", r"' tax' and 'tax' differ only by case or white"),
    "long label": ("a.json", with_row(intent="t" * 101), r"row 5: the label has 101 characters"),
    "number": ("a.json", with_row(query=12), r"'query' is 12 where text is due"),
    "number as text": ("a.csv", CSV + '"5,000",tax\n', r"only a number where text is due"),
    "number label": ("a.json", with_row(intent=3), r"'intent' is 3 where text is due"),
    "truth value": ("a.json", with_row(query=True), r"is True where text is due"),
    "nested": ("a.json", with_row(query={"text": "x"}), r"'query' is nested"),
    "nested list": ("a.json", json.dumps({"rows": ROWS}), r"save the list under 'rows' by itself"),
    "deep": ("a.json", "[" * 100_000, r"nested too deeply"),
    "list of texts": ("a.json", '["a", "b"]', r"row 1: is a str, not an object \(and 1 more row\)"),
    "truncated": ("a.json", json.dumps(ROWS)[:-20], r"cut off at line 1"),
    "truncated line": ("a.jsonl", jsonl(ROWS)[:-10], r"row 4 \(line 4\): is not one JSON object"),
    "broken json": ("a.json", "[{'query': 1}]", r"line 1, column 3: is not JSON"),
    "lines in json": ("a.json", jsonl(ROWS), r"is JSON Lines; rename it to \.jsonl"),
    "list in jsonl": ("a.jsonl", json.dumps(ROWS), r"is a JSON list; rename it to \.json"),
    "utf-16": ("a.csv", CSV.encode("utf-16"), r"is UTF-16.*save it again as UTF-8"),
    "utf-16 without mark": ("a.csv", CSV.encode("utf-16-le"), r"is UTF-16"),
    "latin-1": ("a.csv", CSV.encode() + "café,tax\n".encode("latin-1"), r"line 6: byte 0xe9"),
    "nul": ("a.csv", CSV.encode() + b"a\x00b,tax\n", r"line 6: holds a NUL byte"),
    "escaped nul": ("a.json", with_row(query="a\x00b"), r"cannot be stored"),
    "half a pair": ("a.json", with_row(query="a\ud800b"), r"cannot be stored"),
    "semicolons": ("a.csv", CSV.replace(",", ";"), r"separated by semicolons; add --delimiter ';'"),
    "tabs": ("a.csv", CSV.replace(",", "\t"), r"separated by tabs; add --delimiter 'tab'"),
    "header": ("a.csv", CSV.replace("query", "text"), r"'query'; it has text, intent.*--text"),
    "label header": ("a.csv", CSV.replace("intent", "category"), r"'intent'; it has.*--label"),
    "twice": ("a.csv", CSV.replace("intent", "query"), r"column 'query' occurs twice"),
    "uneven": ("a.csv", CSV + "a,b,c\n", r"row 5 \(line 6\): has 3 fields, the header 2"),
    "open quote": ("a.csv", CSV + '"a,tax\n', r"line 6: .*quotation mark"),
    "empty": ("a.csv", "", r"is empty"),
    "only a mark": ("a.csv", b"\xef\xbb\xbf", r"has no rows"),
    "white": ("a.json", " \n", r"is empty"),
    "header only": ("a.csv", "query,intent\n", r"has no rows, only query, intent"),
    "empty list": ("a.json", "[]", r"has no rows"),
    "one class": ("a.csv", CSV.replace("loan\n", "tax\n"), r"one label only, 'tax'"),
    "class of one": ("a.csv", CSV + "more,gold\n", r"1 of 3 labels: 'gold'.*--keep-rare"),
    "date": ("a.json", with_row(created_at="25/01/2026"), r"'25/01/2026' is no ISO date"),
    "basic date": ("a.json", with_row(created_at="20260125"), r"'20260125' is no ISO date"),
    "week": ("a.json", with_row(created_at="2026-W04-7"), r"is no ISO date. Write dates as 2026"),
    "id twice": ("a.json", json.dumps([{**r, "id": "x"} for r in ROWS]), r"id 'x' occurs twice"),
    "ending": ("a.xlsx", "x", r"unknown kind '\.xlsx'; save it as one of \.csv"),
    "zip": ("a.csv", b"PK\x03\x04rest", r"zip or Excel file under another name"),
    "parquet": ("a.parquet", b"PAR1xxxxPAR1", r"no complete Parquet"),
    "object": ("a.json", json.dumps(ROWS[0]), r"holds one object where a list"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "content", "message"), BAD.values(), ids=BAD.keys())
def test_bad_files_are_refused_with_their_place(tmp_path, name, content, message):
    path = write(tmp_path, name, content)
    with pytest.raises(DataError, match=message) as caught:
        read_rows(path)
    assert str(path) in str(caught.value)


def test_line_numbers_count_the_lines_within_quoted_texts(tmp_path):
    path = write(tmp_path, "a.csv", CSV + '"two\nlines",tax\n,tax\n')
    with pytest.raises(DataError, match=r"row 6 \(line 8\)"):
        read_rows(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read_rows(tmp_path / "none.csv")
    with pytest.raises(DataError, match="is a folder"):
        read_rows(tmp_path)


def test_a_label_outside_the_taxonomy_is_named_with_the_closest(tmp_path):
    path = write(tmp_path, "a.csv", CSV)
    with pytest.raises(DataError, match=r"row 3 .*'loan' is not in the taxonomy.*mean 'loans'"):
        read_rows(path, labels=["tax", "loans"])


def test_messages_quote_no_text(tmp_path):
    path = write(tmp_path, "a.csv", CSV + "call 9876543210 now,tax\ncall 9876543210 now,loan\n")
    with pytest.raises(DataError) as caught:
        read_rows(path)
    assert "9876543210" not in str(caught.value)


def test_a_label_of_a_hundred_characters_is_read(tmp_path):
    rows = [{**row, "intent": row["intent"].ljust(100, "x")} for row in ROWS]
    assert set(read_rows(write_rows(tmp_path, ".csv", rows))["intent"].str.len()) == {100}


def test_a_label_that_may_be_a_text_is_not_quoted(tmp_path):
    rows = [{"query": row["intent"], "intent": row["query"] * 9} for row in ROWS]
    with pytest.raises(DataError, match=r"more than 100 .* --label COLUMN") as caught:
        read_rows(write_rows(tmp_path, ".csv", rows), labels=["tax", "loan"])
    assert "save tax" not in str(caught.value)


def test_additions_and_test_files_may_have_one_class(tmp_path):
    assert len(read_rows(write_rows(tmp_path, ".csv", ROWS[:1]), whole=False)) == 1


def test_dropping_duplicates_keeps_the_first_and_its_row_number(tmp_path):
    path = write(tmp_path, "a.csv", CSV.replace("which", "how to save tax,tax\nwhich"))
    frame, dropped = drop_duplicates(read_rows(path, keep_duplicates=True))
    assert (dropped, frame.index.tolist()) == (1, [0, 2, 3, 4])


def test_parquet_dates_become_iso_and_numbers_are_refused(tmp_path):
    rows = [{**row, "created_at": pd.Timestamp("2026-01-25")} for row in ROWS]
    assert (
        read_rows(write_rows(tmp_path, ".parquet", rows))["created_at"][0] == "2026-01-25T00:00:00"
    )
    with pytest.raises(DataError, match="'intent' is 1 where text is due"):
        read_rows(write_rows(tmp_path, ".parquet", [{**row, "intent": 1} for row in ROWS]))


def dated(*days):
    days = [*days, *[None] * (len(ROWS) - len(days))]
    return [{**row, "created_at": day} for row, day in zip(ROWS, days, strict=True)]


@pytest.mark.parametrize(
    "days",
    [
        ("2026-01-25", "2026-02-01"),
        ("2026-01-25T10:30:00", "2026-02-01T00:00:00.250"),
        ("2026-01-25 10:30", "2026-02-01 09:00"),
        ("2026-01-25T10:30:00Z", "2026-02-01T10:30:00.5Z"),
        ("2026-01-25 10:30:00+05:30", None, "2026-02-01 10:30:00+05:30"),
    ],
)
def test_dates_of_one_form_are_read_as_they_are(tmp_path, days):
    rows = dated(*days)
    frame = read_rows(write_rows(tmp_path, ".jsonl", rows))
    assert frame["created_at"].dropna().tolist() == [day for day in days if day]


@pytest.mark.parametrize(
    "other",
    ["2026-01-25T10:30:00", "2026-01-25", "2026-01-25T10:30:00+05:30", "2026-01-25 10:30:00Z"],
)
def test_dates_of_several_forms_are_refused_with_both(tmp_path, other):
    path = write_rows(tmp_path, ".jsonl", dated(None, "2026-02-01T10:30:00Z", other))
    with pytest.raises(DataError) as caught:
        read_rows(path)
    assert f"row 3 (line 3): created_at {other!r} is written unlike" in str(caught.value)
    assert "'2026-02-01T10:30:00Z' in row 2" in str(caught.value)


def test_a_pipe_is_refused_instead_of_waited_for(tmp_path):
    os.mkfifo(tmp_path / "rows.csv")
    with pytest.raises(DataError, match="no regular file"):
        read_rows(tmp_path / "rows.csv")


PRIVATE = ["9876543210", "u-2345/6789/0124", "rahul [at] example [dot] com", "ABCPE1234F"]


@pytest.mark.parametrize("value", PRIVATE)
@pytest.mark.parametrize(
    ("column", "fix"),
    [
        ("id", "delete the column to have them made"),
        ("intent", "Rename the label"),
        ("created_at", "Write a date"),
    ],
)
def test_personal_data_in_ids_dates_and_labels_is_refused_unquoted(tmp_path, column, fix, value):
    day = {"created_at": "2026-01-25T10:30:00+05:30"}
    rows = [{"id": f"q{n}", **day, **row} for n, row in enumerate(ROWS)]
    rows[2][column] = value
    with pytest.raises(
        DataError, match=rf"row 3.*: '{column}' holds personal data.*{fix}"
    ) as error:
        read_rows(write_rows(tmp_path, ".csv", rows))
    assert value not in str(error.value)


def test_a_number_that_is_no_text_is_quoted_anonymised(tmp_path):
    rows = [*ROWS, {"query": "tax?", "intent": 9876543210}]
    with pytest.raises(DataError, match=r"'intent' is \[PHONE\] where text is due"):
        read_rows(write_rows(tmp_path, ".json", rows))


@pytest.mark.parametrize(
    "make",
    [
        lambda n: hashlib.sha256(b"%d" % n).hexdigest(),
        lambda n: str(uuid.UUID(int=n * 987654321987654321987654321)),
        lambda n: str(1_700_000_000_000 + 7 * n),
        lambda n: str(234_567_890_000 + n),
        lambda n: hashlib.sha256(b"%d" % n).hexdigest()[:12],
        lambda n: "q-" + base64.b32encode(hashlib.sha256(b"%d" % n).digest()).decode()[:24],
    ],
)
def test_digests_and_long_numbers_are_ids(tmp_path, make):
    rows = [{"id": make(n), "query": f"how {n}", "intent": "ab"[n % 2]} for n in range(2000)]
    assert len(read_rows(write_rows(tmp_path, ".csv", rows))) == 2000


@pytest.mark.parametrize("make", ["9876{:06}".format, "u-98765{:05}".format, "ABCPE{:04}F".format])
def test_ids_that_all_hold_personal_data_are_refused(tmp_path, make):
    rows = [{"id": make(n), "query": f"how {n}", "intent": "ab"[n % 2]} for n in range(40)]
    with pytest.raises(DataError, match=r"'id' holds personal data .*and 39 more"):
        read_rows(write_rows(tmp_path, ".csv", rows))


def test_escape_sequences_and_control_characters_are_removed_and_counted(tmp_path):
    rows = [
        *ROWS,
        {"query": "\x1b[31msell\x1b[0m \x1b]0;title\x07gold\x9b2J\b", "intent": "lo\x7fan"},
        {"query": "two\nlines\tand a tab", "intent": "tax"},
    ]
    said = []
    frame = read_rows(write_rows(tmp_path, ".json", rows), report=said.append)
    assert frame.iloc[4].tolist() == ["sell gold", "loan"]
    assert frame["query"][5] == "two\nlines\tand a tab"
    assert said == ["2 cells had escape sequences or control characters, now removed"]


def test_a_label_of_one_row_is_kept_when_asked_to(tmp_path):
    frame = read_rows(write(tmp_path, "a.csv", CSV + "more,gold\n"), keep_rare=True)
    assert frame["intent"].tolist()[-1] == "gold"


@pytest.mark.parametrize("column", ["query", "intent"])
def test_half_a_surrogate_pair_is_named_when_a_file_is_validated(tmp_path, column):
    path = write(tmp_path, "a.jsonl", jsonl(ROWS) + json.dumps({**ROWS[0], column: "a\ud800"}))
    with pytest.raises(DataError, match=rf"row 5 \(line 5\): '{column}' holds a character"):
        read_unchecked(path, "query", "intent")


@pytest.mark.parametrize("read", [read_rows, read_unchecked])
def test_a_text_that_would_take_gigabytes_to_compare_is_refused(tmp_path, read):
    rows = [{"query": "rent " * 20_001, "intent": "spend"}, *ROWS]
    with pytest.raises(DataError, match=r"row 1.*100,00\d characters, more than 100,000"):
        read(write_rows(tmp_path, ".jsonl", rows), "query", "intent")


def test_a_file_that_unpacks_to_more_than_fits_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("nivesh_lib.data.reading.MAX_CHARACTERS", 50)
    with pytest.raises(DataError, match="holds more than 50 characters; import a part of it"):
        read_rows(write_rows(tmp_path, ".parquet", ROWS))
