"""Options and arguments that several commands have, and what they print."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any

import typer

from nivesh_lib.terminal import printable

Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]
Text = Annotated[str, typer.Option(help="The file's column of texts.")]
Label = Annotated[str, typer.Option(help="The file's column of labels.")]
Delimiter = Annotated[str | None, typer.Option(help="Of a CSV file: ';', 'tab', …")]
Ref = Annotated[str, typer.Argument(metavar="REF", help="NAME@VERSION, or NAME for the newest.")]


def echo(*lines: str, err: bool = False) -> None:
    """Print lines; what would command the terminal or break a line is shown escaped."""
    for line in lines:
        typer.echo(printable(line), err=err)


def echo_json(value: Any) -> None:
    """Print a value as indented JSON, with half a surrogate pair as JSON's own escape."""
    text = json.dumps(value, ensure_ascii=False, indent=1)
    typer.echo(re.sub("[\ud800-\udfff]", lambda half: ascii(half[0])[1:-1], text))
