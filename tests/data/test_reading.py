from __future__ import annotations

import itertools
import json

import pandas as pd
import pytest

from nivesh_lib.data.reading import query_lines, read_queries
from nivesh_lib.errors import DataError

ROWS = [
    {"id": "a", "query": "save tax, now"},
    {"id": "b", "query": ""},
    {"id": "c", "query": "चाय"},
]


def write(tmp_path, ending, rows):
    path = tmp_path / f"rows{ending}"
    frame = pd.DataFrame(rows)
    if ending == ".csv":
        frame.to_csv(path, index=False)
    elif ending == ".parquet":
        frame.to_parquet(path, row_group_size=2)
    elif ending == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("ending", [".csv", ".json", ".jsonl", ".ndjson", ".parquet"])
def test_every_kind_gives_texts_rows_and_ids_in_order(tmp_path, ending):
    found = list(read_queries(write(tmp_path, ending, ROWS)))
    assert [query.text for query in found] == [row["query"] for row in ROWS]
    assert [query.origin for query in found] == [
        {"row": n, "id": row["id"]} for n, row in enumerate(ROWS, start=1)
    ]


@pytest.mark.parametrize("ending", [".csv", ".json", ".jsonl", ".parquet"])
def test_the_option_names_the_column_and_an_absent_id_is_left_out(tmp_path, ending):
    rows = [{"text": "tax", "other": 1}, {"text": "rent", "other": 2}]
    found = list(read_queries(write(tmp_path, ending, rows), "text"))
    assert found == [("tax", {"row": 1}), ("rent", {"row": 2})]


@pytest.mark.parametrize("ending", [".json", ".jsonl", ".parquet"])
def test_a_number_stays_a_number_as_id(tmp_path, ending):
    (query,) = read_queries(write(tmp_path, ending, [{"id": 7, "query": "tax"}]))
    assert query.origin["id"] == 7


def test_each_line_of_a_text_file_is_a_text_even_a_blank_one(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufefftax\r\n\n rent ".encode())
    assert list(read_queries(tmp_path / "a.txt")) == [
        ("tax", {"row": 1}),
        ("", {"row": 2}),
        (" rent ", {"row": 3}),
    ]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_csv_text_may_hold_line_breaks_whatever_ends_its_lines(tmp_path, end):
    (tmp_path / "a.csv").write_bytes(f'query;x{end}"two{end}lines";1{end}{end}tax;2{end}'.encode())
    found = list(read_queries(tmp_path / "a.csv", delimiter=";"))
    assert found == [(f"two{end}lines", {"row": 1}), ("tax", {"row": 2})]


@pytest.mark.parametrize(
    ("name", "content"), [("a.txt", ""), ("a.csv", "query\n"), ("a.json", "[]"), ("a.jsonl", "")]
)
def test_no_rows_are_no_queries(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    assert list(read_queries(tmp_path / name)) == []


BAD = {
    "header": ("a.csv", "text,x\n9876543210,1\n", 0, r"no column 'query'; it has text, x\..*-text"),
    "empty csv": ("a.csv", "", 0, r"no column 'query'; it has none"),
    "fields": ("a.csv", "query\ntax\n\nrent,9876543210\n", 1, r"row 2 \(line 4\): has 2 fields, t"),
    "quote": ("a.csv", 'query\ntax\n"9876543210', 1, r"line 3: .*quotation mark"),
    "semicolons": ("a.csv", "query;x\ntax;1\n", 0, r"separated by semicolons; add --delimiter ';'"),
    "key": ("a.jsonl", '{"query": "tax"}\n\n{"x": "9876543210"}', 1, r"row 2 \(line 3\) has no"),
    "null": ("a.jsonl", '{"query": "tax"}\n{"query": null}', 1, r"row 2 \(line 2\): 'query' is m"),
    "number": ("a.jsonl", '{"query": 9876543210}', 0, r"row 1 .*'query' is of type int where text"),
    "nested": ("a.jsonl", '{"query": ["9876543210"]}', 0, r"'query' is nested"),
    "nested id": ("a.jsonl", '{"query": "tax", "id": [1]}', 0, r"'id' is nested"),
    "damaged": ("a.jsonl", '{"query": "9876543210\\ud800"}', 0, r"'query' holds a character"),
    "line": ("a.jsonl", '{"query": "tax"}\n{"query": "9876543210', 1, r"row 2 \(line 2\): is not"),
    "array": ("a.jsonl", '{"query": "tax"}\n["9876543210"]', 1, r"row 2 \(line 2\): is a list"),
    "list": ("a.jsonl", '[{"query": "tax"}]', 0, r"is a JSON list; rename"),
    "key in json": ("a.json", '[{"query": "tax"}, {"x": "9876543210"}]', 1, r"row 2 has no column"),
    "utf-8 csv": ("a.csv", b"query\ntax\n9876543210\xe9\n", 1, r"line 3: byte 0xe9 is not UTF-8"),
    "utf-8 txt": ("a.txt", b"tax\n9876543210\xe9\n", 1, r"line 2: byte 0xe9 is not UTF-8"),
    "nul": ("a.txt", b"tax\n9876543210\0\n", 1, r"line 2: holds a NUL byte"),
    "utf-16": ("a.txt", "tax\n".encode("utf-16-le"), 0, r"is UTF-16"),
    "gzip": ("a.jsonl", b"\x1f\x8b\x08rest", 0, r"is a gzip file under another name"),
    "parquet": ("a.parquet", b"PAR1xxxxPAR1", 0, r"no complete Parquet"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "content", "good", "message"), BAD.values(), ids=BAD.keys())
def test_a_bad_row_is_refused_in_its_turn_and_not_quoted(tmp_path, name, content, good, message):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    queries, read = read_queries(path), []
    with pytest.raises(DataError, match=message) as caught:
        for query in queries:
            read.append(query)
    assert len(read) == good
    assert str(path) in str(caught.value) and "9876543210" not in str(caught.value)


def test_a_bad_cell_of_parquet_is_named_by_row_and_column(tmp_path):
    path = write(tmp_path, ".parquet", [{"query": "tax"}] * 600 + [{"query": None}])
    queries = read_queries(path)
    assert len(list(itertools.islice(queries, 600))) == 600
    with pytest.raises(DataError, match="row 601: 'query' is missing"):
        next(queries)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("none.txt", {}, "does not exist"),
        ("a.xlsx", {}, r"unknown kind '\.xlsx'; save it as one of \.txt, \.csv"),
        ("a.txt", {"text": "query"}, "has none, only one text a line"),
        ("a.txt", {"delimiter": ";"}, "--delimiter is for CSV files"),
        ("a.csv", {"delimiter": ";;"}, "is not one character"),
    ],
)
def test_what_no_row_can_mend_is_refused_before_the_first_is_read(tmp_path, name, options, message):
    for there in ("a.xlsx", "a.txt", "a.csv"):
        (tmp_path / there).write_text("x")
    with pytest.raises(DataError, match=message):
        read_queries(tmp_path / name, **options)


def test_a_line_is_read_when_its_turn_comes():
    source = iter([b"one\n", b"two\n", b"three\n"])
    queries = query_lines("x", source)
    assert [next(queries).text, next(queries).text] == ["one", "two"]
    assert next(source) == b"three\n"


@pytest.mark.parametrize("ending", [".csv", ".jsonl"])
def test_a_file_of_many_rows_takes_no_more_memory_than_a_few(tmp_path, ending):
    import tracemalloc

    path = write(tmp_path, ending, [{"query": "how to save tax " * 20}] * 20_000)
    assert path.stat().st_size > 6_000_000
    tracemalloc.start()
    read = sum(1 for _ in read_queries(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert read == 20_000 and peak < 1_000_000
