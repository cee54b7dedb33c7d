from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from nivesh_lib.serving.feedback import keep, obstacle
from nivesh_lib.serving.schemas import Correction

KEEP = """
import sys
from pathlib import Path
from nivesh_lib.serving.feedback import keep
from nivesh_lib.serving.schemas import Correction

for n in range(40):
    print(keep(Correction(query=f"{sys.argv[2]} {n} ₹", intent="tax"), Path(sys.argv[1])))
"""


def records(file):
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_a_correction_is_one_line_with_its_id_and_time(tmp_path):
    file = tmp_path / "new" / "feedback.jsonl"
    sent = Correction(query="save\ntax ₹5L", intent="tax", predicted="loan", release="1.0.0")
    identity = keep(sent, file)
    [record] = records(file)
    when = datetime.fromisoformat(record.pop("timestamp"))
    assert abs(datetime.now(UTC) - when) < timedelta(minutes=1)
    assert record == {
        "id": identity, "query": "save tax ₹5L", "intent": "tax", "predicted": "loan",
        "release": "1.0.0",
    }  # fmt: skip


def test_what_was_not_sent_is_null(tmp_path):
    keep(Correction(query="a", intent="tax"), tmp_path / "f")
    [record] = records(tmp_path / "f")
    assert (record["predicted"], record["release"]) == (None, None)


@pytest.mark.parametrize("name", ["query", "predicted", "release"])
def test_no_personal_data_reaches_the_disk(tmp_path, name):
    texts = {"query": "a", "intent": "tax", name: "call 98765 43210"}
    keep(Correction(**texts), tmp_path / "f")
    assert b"43210" not in (tmp_path / "f").read_bytes()
    assert records(tmp_path / "f")[0][name] == "call [PHONE]"


def test_servers_may_keep_corrections_at_the_same_time(tmp_path):
    file = tmp_path / "feedback.jsonl"
    servers = [
        subprocess.Popen(
            [sys.executable, "-c", KEEP, file, word], stdout=subprocess.PIPE, text=True
        )
        for word in ("one", "two", "three")
    ]
    told = [identity for server in servers for identity in server.communicate()[0].split()]
    kept = records(file)
    assert sorted(record["id"] for record in kept) == sorted(told) and len(set(told)) == 120
    assert {record["query"] for record in kept} == {
        f"{word} {n} ₹" for word in ("one", "two", "three") for n in range(40)
    }


def test_what_is_in_the_way_of_corrections_is_found_and_nothing_is_made(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    assert obstacle(tmp_path / "new" / "folder" / "f") == "" == obstacle(tmp_path / "file")
    assert obstacle(tmp_path).endswith(f"{tmp_path} is a folder")
    assert obstacle(tmp_path / "file" / "new" / "f").endswith("file is no folder")
    monkeypatch.setattr(os, "access", lambda place, mode: mode == os.F_OK and place.exists())
    assert obstacle(tmp_path / "new" / "f").endswith(f"{tmp_path} is not writable")
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_a_correction_that_cannot_be_kept_is_an_error(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(OSError, match="taken"):
        keep(Correction(query="a", intent="tax"), tmp_path / "taken" / "feedback.jsonl")
