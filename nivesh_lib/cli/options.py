"""Options and arguments that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

Delimiter = Annotated[str | None, typer.Option(help="Of a CSV file: ';', 'tab', …")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]
