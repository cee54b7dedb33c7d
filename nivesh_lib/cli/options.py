"""Options and arguments that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]
Text = Annotated[str, typer.Option(help="The file's column of texts.")]
Label = Annotated[str, typer.Option(help="The file's column of labels.")]
Delimiter = Annotated[str | None, typer.Option(help="Of a CSV file: ';', 'tab', …")]
Ref = Annotated[str, typer.Argument(metavar="REF", help="NAME@VERSION, or NAME for the newest.")]
