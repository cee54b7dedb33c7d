from __future__ import annotations

import os

import pytest

from nivesh_lib.errors import ModelError
from nivesh_lib.models import directory
from nivesh_lib.models.directory import (
    member_directory,
    model_file,
    model_files,
    read_bytes,
    read_json,
    read_tensors,
)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model" / "sub").mkdir(parents=True)
    (tmp_path / "model" / "a.json").write_text("[1]")
    (tmp_path / "model" / "sub" / "b.json").write_text("[2]")
    return tmp_path / "model"


def test_files_of_a_directory_are_found_and_read(folder):
    assert model_files(folder) == {"a.json": 3, "sub/b.json": 3}
    assert read_json(folder, "sub/b.json") == [2]
    assert member_directory(folder, "sub") == folder / "sub"


def test_a_directory_may_be_reached_through_a_link(folder, tmp_path):
    (tmp_path / "link").symlink_to("model")
    assert read_json(tmp_path / "link", "a.json") == [1]


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../model/a.json", "./a.json", "sub//b.json", "sub/", "/etc/hosts", 3]
)
@pytest.mark.parametrize("find", [model_file, member_directory])
def test_a_name_that_leads_elsewhere_is_refused(folder, find, name):
    with pytest.raises(ModelError, match="is refused, it lies outside the model"):
        find(folder, name)


@pytest.mark.parametrize("name", ["link.json", "linked/b.json"])
def test_a_link_is_followed_where_that_is_asked_for_alone(folder, name):
    (folder / "link.json").symlink_to("a.json")
    (folder / "linked").symlink_to("sub")
    with pytest.raises(ModelError, match="a link, which is refused"):
        model_file(folder, name)
    assert read_json(folder, name, links=True)


def test_a_folder_is_no_file_and_a_file_no_folder(folder):
    with pytest.raises(ModelError, match="a folder, where a file is expected"):
        model_file(folder, "sub")
    with pytest.raises(ModelError, match="no folder"):
        member_directory(folder, "a.json")


@pytest.mark.parametrize("links", [True, False])
def test_a_pipe_is_never_opened(folder, links):
    os.mkfifo(folder / "pipe.json")
    with pytest.raises(ModelError, match="a device or pipe"):
        read_bytes(folder, "pipe.json", links=links)


def test_a_name_that_nothing_can_have_is_shown_in_one_short_line(folder):
    for name in ("a\0b", "\ud800", "x" * 5_000, "\x1b[2J\n"):
        with pytest.raises(ModelError) as caught:
            model_file(folder, name)
        message = str(caught.value)
        assert len(message) < 1_000 and message.isprintable()


def test_what_is_too_large_is_not_read(folder, monkeypatch):
    with pytest.raises(ModelError, match="has 3 bytes, at most 2 are read"):
        read_bytes(folder, "a.json", limit=2)
    monkeypatch.setattr(directory, "MAX_CONTAINERS", 0)
    with pytest.raises(ModelError, match="more than 0 lists"):
        read_json(folder, "a.json")
    monkeypatch.setattr(directory, "MAX_ENTRIES", 2)
    with pytest.raises(ModelError, match="holds more than 2 files"):
        model_files(folder)
    monkeypatch.setattr(directory, "MAX_ENTRIES", 3)
    monkeypatch.setattr(directory, "MAX_MODEL_BYTES", 5)
    with pytest.raises(ModelError, match="have 6 bytes, and a model at most 5"):
        model_files(folder)


def test_what_is_no_safetensors_is_named(folder):
    with pytest.raises(ModelError, match=r"a\.json: not safetensors"):
        read_tensors(folder, "a.json")
