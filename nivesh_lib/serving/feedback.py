"""Corrections of answers: one anonymised line each, on disk before the caller is told."""

from __future__ import annotations

import json
import os
import uuid
from datetime import UTC, datetime
from pathlib import Path

from nivesh_lib.files import append_line
from nivesh_lib.privacy import anonymize_query
from nivesh_lib.serving.schemas import Correction


def obstacle(file: Path) -> str:
    """Return why corrections cannot be appended to a file; empty where nothing is in the way."""
    place = file
    while not os.access(place, os.F_OK):
        place = place.parent  # folders are made with the first correction
    if place.is_dir() == (place == file):
        why = "is a folder" if place == file else "is no folder"
    elif not os.access(place, os.R_OK | os.W_OK):
        why = "is not writable"
    else:
        return ""
    return f"corrections cannot be kept: {place} {why}"


def keep(correction: Correction, file: Path) -> str:
    """Append a correction to a file of JSON lines; return its id.

    Raises
    ------
    OSError
        The file cannot be written; nothing was kept then.
    """
    identity = uuid.uuid4().hex
    texts = {  # clients may write anything into each of them
        name: text and anonymize_query(text) for name, text in correction.model_dump().items()
    }
    line = {"id": identity, "timestamp": datetime.now(UTC).isoformat(timespec="seconds"), **texts}
    append_line(file, json.dumps(line, ensure_ascii=False).encode())
    return identity
