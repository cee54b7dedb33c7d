"""The command ``nivesh predict``: queries in, one answer a line out, as they are made."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from nivesh_lib.cli.options import Delimiter

if TYPE_CHECKING:
    from nivesh_lib.data.reading import Query
    from nivesh_lib.errors import ModelError
    from nivesh_lib.serving.predictor import Predictor

STDIN = "-"
STORED = ("models:/", "runs:/")


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
        progress = input_ is not None and _is_terminal(sys.stderr) and not _shown(output)
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


def answers(texts: list[str], model: Path) -> list[dict[str, Any]]:
    """Return the answers of the model in a directory."""
    from nivesh_lib.serving.predictor import Predictor

    return Predictor.from_directory(model).predict(texts)


def as_line(answer: dict[str, Any]) -> str:
    """Return an answer as a line to read."""
    others = ", ".join(f"{a['intent']} {a['confidence']:.2f}" for a in answer["alternatives"])
    told = f"{answer['intent']} {answer['confidence']:.2f}"
    if answer.get("abstained"):
        told = f"hand over   (rather than {told})"
    return told + (f"   (else {others})" if others else "")


def _same(output: Path, input_: str) -> bool:
    return output.exists() and Path(input_).exists() and output.samefile(input_)


def _shown(output: Path | None) -> bool:
    """Whether the answers appear on a terminal, where a bar would get between them."""
    return output is None and _is_terminal(sys.stdout)


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty()  # None: whoever started it had closed it


def _queries(
    texts: list[str], input_: str | None, text: str | None, delimiter: str | None
) -> Iterator[Query]:
    from nivesh_lib.data.reading import Query, query_lines, read_queries

    if input_ is None:
        return (Query(text, {}) for text in texts)
    if input_ == STDIN:
        if sys.stdin is None:
            raise typer.BadParameter("standard input is closed; pipe queries in or name a FILE")
        return query_lines("standard input", sys.stdin.buffer)
    return read_queries(input_, text, delimiter=delimiter)


def _line(answer: dict[str, Any], query: Query, as_json: bool) -> str:
    if as_json:
        return json.dumps({**answer, **query.origin}, ensure_ascii=False)
    return as_line(answer)


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
    from nivesh_lib.errors import ModelError
    from nivesh_lib.serving.predictor import Predictor

    folder = model_directory(model)
    try:
        return Predictor.from_directory(folder)
    except ModelError as error:
        raise named(error, model) from error


def model_directory(model: str | None) -> Path:
    """Return the directory of a model: one that is named, of the store, or the best at hand."""
    if model is None:
        return _best_model()
    if not model.startswith(STORED):
        return Path(model)
    from nivesh_lib.tracking.models import fetch_model

    return fetch_model(model)


def named(error: ModelError, model: str | None) -> ModelError:
    """Return the error with the name of a stored model, whose copy is gone when it is read."""
    return type(error)(f"{model}: {error}") if model and model.startswith(STORED) else error


def _best_model() -> Path:
    from nivesh_lib import paths
    from nivesh_lib.errors import ModelError
    from nivesh_lib.reporting.site import leaderboard, odd_results, read_results

    latest = paths.latest_run()
    for path in odd_results(latest):  # it might be the best one
        if (latest / "models" / path.stem).is_dir():
            raise ModelError(
                f"{paths.relative(path)}: not the results of a step, so the best model is unknown. "
                "`nivesh run --force` makes them again, or pass --model DIRECTORY"
            )
    board = leaderboard(read_results(latest))
    if not board:
        raise ModelError("no model yet. `nivesh run` trains them, or pass --model DIRECTORY")
    return latest / "models" / board[0]["step"]
