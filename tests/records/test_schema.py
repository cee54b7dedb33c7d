from __future__ import annotations

import os

import pytest

from nivesh_lib.records.schema import fits, read_object

SHAPE = {"name": str, "files": {"*": str}, "parts": [{"n": int}], "why?": str | None}
SOUND = {"name": "a", "files": {"x": "1"}, "parts": [{"n": 1}], "more": []}


def test_a_value_of_the_shape_fits_whatever_else_it_holds():
    assert fits(SOUND, SHAPE) and fits({**SOUND, "why": None}, SHAPE)


@pytest.mark.parametrize(
    "value",
    [
        [],
        "text",
        None,
        {},
        {**SOUND, "name": 1},
        {**SOUND, "files": ["x"]},
        {**SOUND, "files": {"x": 1}},
        {**SOUND, "parts": [{"n": "1"}]},
        {**SOUND, "parts": [1]},
        {**SOUND, "why": 3},
        {key: SOUND[key] for key in ("name", "files")},
    ],
)
def test_a_value_of_another_shape_does_not_fit(value):
    assert not fits(value, SHAPE)


@pytest.mark.parametrize("text", ["", "{", "[]", '"text"', "null", "[" * 100_000, "{}"])
def test_what_is_no_object_of_the_shape_is_not_read(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    assert read_object(tmp_path / "a.json", {"name": str}) is None


def test_a_file_that_is_not_there_or_not_text_is_not_read(tmp_path):
    (tmp_path / "a.json").write_bytes(b"\xff\xfe{")
    assert read_object(tmp_path / "a.json") is None
    assert read_object(tmp_path / "b.json") is None


def test_an_object_is_read(tmp_path):
    (tmp_path / "a.json").write_text('{"name": "a"}')
    assert read_object(tmp_path / "a.json", {"name": str}) == {"name": "a"}


def test_a_pipe_is_no_object_and_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "run.json")
    assert read_object(tmp_path / "run.json") is None
