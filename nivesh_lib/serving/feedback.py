"""Corrections of answers: one anonymised line each, on disk before the caller is told."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from pathlib import Path

from nivesh_lib.files import append_line
from nivesh_lib.privacy import anonymize_query
from nivesh_lib.serving.schemas import Correction


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
