"""The table: one row for each kind of torture, and where it stands in the documentation."""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from nivesh_lib.reproducibility import machine

COUNTS = {
    "unreadable": "unreadable files",
    "open": "runs left open",
    "executed": "executed",
    "outside": "read outside",
    "hangs": "hangs",
    "wrong": "wrong outcomes",
}
KINDS = {  # as `make torture` names them, and as the table does
    "tiny": "kills of a pipeline of tiny notebooks",
    "smoke": "kills of the smoke pipeline",
    "disks": "full disks under a pipeline, then space again",
    "races": "two pipelines at once in one home",
    "directories": "hostile model directories and ONNX graphs",
    "files": "hostile data files, validated and added",
    "ledgers": "tamperings with the holdout ledger",
}
BEGIN, END = '<!-- torture:start (make torture ARGS="--write") -->', "<!-- torture:end -->"


@dataclass
class Row:
    """What was tried of one kind, what went wrong, and the largest time and memory."""

    kind: str
    tried: int = 0
    unreadable: int = 0
    open: int = 0
    executed: int = 0
    outside: int = 0
    hangs: int = 0
    wrong: int = 0
    seconds: float = 0.0
    memory: float = 0.0
    resumed: int = 0  # pipelines that went to their end after kills
    undisturbed: float = 0.0  # seconds of one without a kill
    note: str = ""
    failures: list[str] = field(default_factory=list)

    def count(self, what: str, *said: str) -> None:
        """Count failures of one sort and keep what was said of each."""
        setattr(self, what, getattr(self, what) + len(said))
        self.failures += [f"{COUNTS[what]}: {text}" for text in said]

    def measure(self, seconds: float, memory: float = 0.0) -> None:
        """Keep the largest time and memory."""
        self.seconds, self.memory = max(self.seconds, seconds), max(self.memory, memory)

    def add(self, other: Row) -> None:
        """Add what another process tried of the same kind."""
        for name in ("tried", "resumed", *COUNTS):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.failures += other.failures
        self.undisturbed = max(self.undisturbed, other.undisturbed)
        self.measure(other.seconds, other.memory)

    @property
    def sound(self) -> bool:
        """Whether every count is 0."""
        return not any(getattr(self, name) for name in COUNTS)


def markdown(rows: Sequence[Row], minutes: float) -> str:
    """Return the table with the machine and the day, as Markdown."""
    head = ["kind", "tried", *COUNTS.values(), "largest time", "largest memory"]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for row in rows:
        counts = [str(getattr(row, name)) for name in COUNTS]
        sizes = [f"{row.seconds:.1f} s", f"{row.memory:,.0f} MB" if row.memory else ""]
        lines.append([row.kind, f"{row.tried:,}", *counts, *sizes])
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    notes = "".join(f"\n- {row.kind}: {row.note}" for row in rows if row.note)
    where = (
        f"{datetime.date.today()}, {minutes:.0f} minutes on {os.cpu_count()} cores "
        f"({machine()['model']}), Python {platform.python_version()}, {platform.system()}."
    )
    return f"{where}\n\n{table}\n{notes and chr(10) + notes.strip()}\n".rstrip() + "\n"


def write_json(path: Path, rows: Sequence[Row], minutes: float) -> None:
    """Write the rows, failures included, for programs."""
    told = {"minutes": round(minutes, 1), "rows": [asdict(row) for row in rows]}
    path.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def put_into(page: Path, text: str) -> None:
    """Replace what stands between the markers of a page."""
    between = re.compile(f"(?<={re.escape(BEGIN)}\n).*?(?={re.escape(END)})", re.DOTALL)
    page.write_text(between.sub(lambda _: text, page.read_text(encoding="utf-8")), "utf-8")


def table_of(page: str) -> list[dict[str, str]]:
    """Return the rows between the markers of a page, by the names of the columns."""
    inside = page.partition(BEGIN)[2].partition(END)[0]
    lines = [line.strip("| ").split(" | ") for line in inside.splitlines() if line[:1] == "|"]
    return [dict(zip(lines[0], line, strict=False)) for line in lines[2:]]
