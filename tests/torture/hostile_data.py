"""Data files of somebody who means harm, or whose export went wrong.

A builder takes a folder, makes a file in it and returns its path. `REFUSED` are those that must
not become a dataset.
"""

from __future__ import annotations

import functools
import gzip
import json
import os
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Builder = Callable[[Path], Path]
WORDS = ("rent", "salary", "gold", "bonus", "chai", "petrol", "school", "train")
BUILDERS: dict[str, Builder] = {}
REFUSED = {"link to the holdout", "hard link to the holdout", "FIFO",
           "link to /dev/zero", "link to /dev/random"}  # fmt: skip
Rows = list[dict[str, Any]]


def rows(**changes: Any) -> Rows:
    """Return rows that could be published; ``changes`` are of the first one."""
    made: Rows = [
        {"query": f"{word} {other} {number}", "intent": intent}
        for number, intent in enumerate(("spend", "save"))
        for word in WORDS
        for other in WORDS[:3]
    ]
    return [made[0] | changes, *made[1:]]


def labelled(label: Any) -> Rows:
    """Return rows of which half have this label."""
    return [row | ({"intent": label} if row["intent"] == "save" else {}) for row in rows()]


def file(name: str, suffix: str, content: Callable[[], str | bytes]) -> None:
    """Register a builder that writes text or bytes."""

    def build(folder: Path) -> Path:
        path, found = folder / f"rows{suffix}", content()
        path.write_bytes(found if isinstance(found, bytes) else found.encode("utf-8"))
        return path

    BUILDERS[name] = build


def as_json(name: str, made: Callable[[], Any]) -> None:
    """Register a builder that writes JSON; what no encoding has is escaped."""
    file(name, ".json", lambda: json.dumps(made()))


def csv(lines: Rows) -> str:
    """Return a CSV file whose cells are not quoted."""
    return "query,intent\n" + "".join(f"{row['query']},{row['intent']}\n" for row in lines)


def made(name: str) -> Callable[[Builder], Builder]:
    """Register a function as the builder of a kind."""

    def register(builder: Builder) -> Builder:
        BUILDERS[name] = builder
        return builder

    return register


DEEP = 100_000
as_json("lone surrogate in a text", lambda: rows(query="rent \ud800 due"))
as_json("lone surrogate in a label", lambda: labelled("sp\udfff"))
as_json("NUL in a text", lambda: rows(query="rent\0due"))
as_json("zero-width text", lambda: rows(query="\u200b\u200d\ufeff\u2060"))
as_json("zero-width label", lambda: labelled("\u200b"))
as_json("combining marks alone", lambda: rows(query="\u0301" * 1_000))
as_json("right-to-left override", lambda: labelled("\u202egnp.exe"))
as_json("escape sequence in a label", lambda: labelled("\x1b]0;owned\x07\x1b[2J"))
as_json("escape sequence in a text", lambda: rows(query="\x1b[31mrent\x1b[0m \x9b2J due"))
as_json("newline in a label", lambda: labelled("save\nerror: all is lost"))
as_json("script in a label", lambda: labelled("</script><img src=x onerror=alert(1)>"))
as_json("Markdown link in a label", lambda: labelled("[x](javascript:alert(1))"))
as_json("path as a label", lambda: labelled("../../../etc/passwd"))
as_json("dots as a label", lambda: labelled(".."))
as_json("formula as a label", lambda: labelled("=cmd|'/c calc'!A1"))
as_json("label of a megabyte", lambda: labelled("x" * 1_000_000))
as_json("path as an id", lambda: [row | {"id": f"../{n}"} for n, row in enumerate(rows())])
as_json("the same id twice", lambda: [row | {"id": "one"} for row in rows()])
as_json("script in a segment", lambda: [row | {"income_segment": "<script>"} for row in rows()])
as_json("escape sequence in a column", lambda: [row | {"\x1b[2J": "x"} for row in rows()])
as_json("numbers and null as labels", lambda: labelled(None) + labelled(3) + labelled(True))
as_json("a list as a text", lambda: rows(query=["rent", {"due": []}]))
as_json("rows that are no objects", lambda: [1, "two", None, [[]]])
as_json("an object of 100,000 columns", lambda: rows(**{f"c{n}": "x" for n in range(DEEP)}))
as_json("30,000 labels", lambda: [{"query": f"rent {n}", "intent": f"l{n}"} for n in range(30_000)])
as_json("a text of 20 MB", lambda: rows(query="rent " * 4_000_000))
file("brackets 100,000 deep", ".json", lambda: "[" * DEEP + "]" * DEEP)
file("objects 100,000 deep", ".json", lambda: '{"query":' * DEEP + "1" + "}" * DEEP)
file("brackets in JSON Lines", ".jsonl", lambda: '{"query":' + "[" * DEEP + "]" * DEEP + "}\n")
file("brackets in a notebook", ".json", lambda: '{"cells":' + "[" * DEEP)
file("a number of 100,000 digits", ".json", lambda: '[{"query": ' + "9" * DEEP + "}]")
file("NaN, Infinity and 1e999", ".json", lambda: '[{"query": NaN, "intent": 1e999}, -Infinity]')
file("a key repeated", ".json", lambda: '[{"query": "a", "query": "b", "intent": "x"}]')
file("a key repeated in JSON Lines", ".jsonl", lambda: '{"query": "a", "intent": "x", "query": ""}')
file("JSON cut off", ".json", lambda: json.dumps(rows())[:-30])
file("byte order mark", ".csv", lambda: b"\xef\xbb\xbf" + csv(rows()).encode())
file("UTF-16", ".csv", lambda: csv(rows()).encode("utf-16"))
file("Latin-1", ".csv", lambda: csv(rows(query="ren\u00e9 due")).encode("latin-1"))
file("quotes that never close", ".csv", lambda: 'query,intent\n"rent due,spend\n' * 20_000)
file("a field of 50 MB", ".csv", lambda: f'query,intent\n"{"rent " * 10_000_000}",spend\n')
file("100,000 fields in a line", ".csv", lambda: csv(rows()) + "x," * DEEP + "\n")
file("carriage returns alone", ".csv", lambda: csv(rows()).replace("\n", "\r"))
file("a column twice", ".csv", lambda: csv(rows()).replace("query,intent", "query,query"))
file("formulas in CSV", ".csv", lambda: csv(labelled("=HYPERLINK(1)")))
file("an empty file", ".csv", lambda: b"")
file("a header alone", ".csv", lambda: "query,intent\n")
file("blanks alone", ".jsonl", lambda: " \n\t\n" * 1_000)
file("Parquet that ends early", ".parquet", lambda: b"PAR1" + b"\xff" * 100 + b"PAR1")
file("Parquet with a footer of 2 GB", ".parquet", lambda: b"PAR1" + b"\xff\xff\xff\x7fPAR1")
for ending in (".csv", ".json", ".jsonl", ".parquet", ".xlsx", ".npy", ".pkl"):
    noise = random.Random(ending).randbytes(100_000)
    file(f"noise as {ending}", ending, functools.partial(bytes, noise))
for ending in (".csv", ".json", ".gz"):
    file(f"gzip of 1 GB as {ending}", ending, lambda: gzip.compress(bytes(1 << 30), 1))


@made("zip of 1 GB as .xlsx")
def zip_bomb(folder: Path) -> Path:
    path = folder / "rows.xlsx"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("xl/worksheets/sheet1.xml", bytes(1 << 30))
    return path


@made("Parquet of 1 GB in some kilobytes")
def parquet_bomb(folder: Path) -> Path:
    path, many = folder / "rows.parquet", pa.array([0] * 1_000_000, pa.int32())
    column = pa.DictionaryArray.from_arrays(many, pa.array(["rent " * 200]))
    pq.write_table(pa.table({"query": column, "intent": column}), path, compression="zstd")
    return path


@made("Parquet with nested columns")
def nested(folder: Path) -> Path:
    path = folder / "rows.parquet"
    pq.write_table(pa.table({"query": [[{"a": [1]}]] * 9, "intent": [b"\xff"] * 9}), path)
    return path


@made("FIFO")
def fifo(folder: Path) -> Path:
    os.mkfifo(folder / "rows.csv")
    return folder / "rows.csv"


def linked(name: str, target: str, suffix: str, link: Callable[[Path, Path], object]) -> None:
    """Register a builder of a link; ``target`` is below the home, or absolute."""

    def build(folder: Path) -> Path:
        path = folder / f"rows{suffix}"
        link(folder.parent / target, path)
        return path

    BUILDERS[name] = build


def symbolic(target: Path, path: Path) -> None:
    path.symlink_to(target)


HOLDOUT = "data/toy/v1.0.0/toy.json"
linked("link to the holdout", HOLDOUT, ".json", symbolic)
linked("hard link to the holdout", HOLDOUT, ".json", os.link)
linked("copy of the holdout", HOLDOUT, ".json", lambda a, b: b.write_bytes(a.read_bytes()))
linked("link to /dev/zero", "/dev/zero", ".csv", symbolic)
linked("link to /dev/random", "/dev/random", ".json", symbolic)
linked("link to itself", "files/rows.csv", ".csv", symbolic)
linked("link to nothing", "gone", ".csv", symbolic)
linked("a folder", "gone", ".csv", lambda _, path: path.mkdir())
