"""The command ``nivesh predict``: queries in, one answer a line out, as they are made."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from nivesh_lib.cli.options import Delimiter
from nivesh_lib.terminal import printable

if TYPE_CHECKING:
    from nivesh_lib.data.reading import Query
    from nivesh_lib.serving.predictor import Predictor

STDIN = "-"


def predict(
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="TEXT...", help="Queries to answer.")
    ] = None,
    input_: Annotated[
        str | None,
        typer.Option(
            "--input",
            metavar="FILE",
            help="Read queries from .txt (one a line), .csv, .jsonl, .json, .parquet; "
            "- is standard input, one query a line.",
        ),
    ] = None,
    text: Annotated[
        str | None, typer.Option(help="The file's column of texts.", show_default="query")
    ] = None,
    delimiter: Delimiter = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Model directory, or models:/NAME@ALIAS, models:/NAME/VERSION, models:/m-…, "
            "runs:/RUN/NAME in the tracking store; default: the best of the last run."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Write here, when all is answered; without it, or with -, print."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the file of --output.")
    ] = False,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Queries that are read, and answered, at once.")
    ] = 256,
    progress: Annotated[
        bool | None,
        typer.Option(
            "--progress/--no-progress",
            help="Show a bar on standard error; default: where it is a terminal, and the answers "
            "to a FILE go elsewhere.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", help="One JSON object a line; of a file with its row and, if any, id."
        ),
    ] = False,
) -> None:
    """Tell the intent of one or more queries, in their order.

    Example: nivesh predict "Can I afford a ₹50L home loan?"

    Example: nivesh predict --input queries.csv --text question --json --output answers.jsonl
    """
    if bool(texts) == (input_ is not None):
        raise typer.BadParameter("give either TEXT... or --input FILE")
    if input_ in (None, STDIN) and (text is not None or delimiter is not None):
        raise typer.BadParameter("--text and --delimiter are for a FILE with columns")
    if output == Path(STDIN):
        output = None
    if output and input_ and _same(output, input_):
        raise typer.BadParameter(f"--output {output}: is the input; name another file")
    if progress is None:
        progress = input_ is not None and _is_terminal(sys.stderr) and not _is_printed(output)
    queries = _queries(texts or [], input_, text, delimiter)
    # A person who types gets an answer to every line.
    window = 1 if input_ == STDIN and _is_terminal(sys.stdin) else batch_size
    with _sink(output, overwrite) as write:
        asked, kept = itertools.tee(queries)
        answers = _load(model).predict_batch(
            (query.text for query in asked), batch_size, window=window, progress=progress
        )
        for answer, query in zip(answers, kept, strict=True):
            write(_line(answer, query, as_json))


def _same(output: Path, input_: str) -> bool:
    return output.exists() and Path(input_).exists() and output.samefile(input_)


def _is_printed(output: Path | None) -> bool:
    """Whether the answers appear on a terminal, where a bar would get between them."""
    return output is None and _is_terminal(sys.stdout)


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty()  # None: whoever started it had closed it


def _queries(
    texts: list[str], input_: str | None, text: str | None, delimiter: str | None
) -> Iterator[Query]:
    from nivesh_lib.data.reading import Query, query_lines, read_queries, refuse_published

    if input_ is None:
        return (Query(text, {}) for text in texts)
    if input_ == STDIN:
        if sys.stdin is None:
            raise typer.BadParameter("standard input is closed; pipe queries in or name a FILE")
        with contextlib.suppress(io.UnsupportedOperation):  # no file is behind it
            refuse_published("standard input", sys.stdin.fileno())
        return query_lines("standard input", sys.stdin.buffer)
    return read_queries(input_, text, delimiter=delimiter)


def _line(answer: dict[str, Any], query: Query, as_json: bool) -> str:
    if as_json:
        return json.dumps({**answer, **query.origin}, ensure_ascii=False)
    from nivesh_lib.serving.predictor import as_line

    return printable(as_line(answer))


@contextlib.contextmanager
def _sink(output: Path | None, overwrite: bool) -> Iterator[Callable[[str], None]]:
    if output is None:
        yield _print
        return
    from nivesh_lib.files import new_file

    with new_file(output, replace=overwrite) as file:
        yield lambda line: typer.echo(line, file=file)


def _print(line: str) -> None:
    """Print and flush; end well when the reader, such as ``head``, has seen enough."""
    try:
        typer.echo(line)
    except BrokenPipeError:
        # What is still in the buffer would fail again when Python flushes it at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None


def _load(model: str | None) -> Predictor:
    from nivesh_lib.serving.model_source import model_at
    from nivesh_lib.serving.predictor import Predictor

    with model_at(model) as folder:
        return Predictor.from_directory(folder)
