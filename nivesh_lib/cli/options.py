"""Options and arguments that several commands have, and their JSON output."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]
Text = Annotated[str, typer.Option(help="The file's column of texts.")]
Label = Annotated[str, typer.Option(help="The file's column of labels.")]
Delimiter = Annotated[str | None, typer.Option(help="Of a CSV file: ';', 'tab', …")]
Ref = Annotated[str, typer.Argument(metavar="REF", help="NAME@VERSION, or NAME for the newest.")]


def echo_json(value: Any) -> None:
    """Print a value as indented JSON."""
    typer.echo(json.dumps(value, ensure_ascii=False, indent=1))
