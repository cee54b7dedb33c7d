"""The command ``nivesh reproduce``: a run or release made again, its predictions compared."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from nivesh_lib.cli.options import Json, echo, echo_json

if TYPE_CHECKING:
    from nivesh_lib.releases.reproduce import Reproduction

_SHOWN = 10  # rows of each result; --json has all
_TARGET = "Name under reports/runs, latest, a path, or the version of a release."


def reproduce(
    target: Annotated[str, typer.Argument(metavar="RUN|VERSION", help=_TARGET)],
    step: Annotated[list[str] | None, typer.Option(help="Only this one; default: all.")] = None,
    as_json: Json = False,
) -> None:
    """Run it again at its commit, with its data and parameters, and compare predictions by row.

    The code is checked out beside the project, which stays as it is. Exit code 1: different.

    Example: nivesh reproduce latest --step 03_tfidf
    """
    from dataclasses import asdict

    from nivesh_lib.releases.reproduce import reproduce as made_again

    done = made_again(target, step or [], report=lambda line: echo(line, err=True))
    if as_json:
        echo_json({"succeeded": done.succeeded, **asdict(done)})
    else:
        echo(*_lines(done))
    raise typer.Exit(not done.succeeded)


def _lines(done: Reproduction) -> Iterator[str]:
    """Yield the table, what it means, and the rows that differ."""
    from nivesh_lib.releases.reproduce import TOLERANCE, WHY_TOLERANCE
    from nivesh_lib.terminal import listed

    yield f"compared: {listed(sorted({one.compared for one in done.verdicts}))}; {done.dataset}"
    width = max(len(one.step) for one in done.verdicts) + 2
    yield f"{'step':<{width}}{'rows':>7}  {'verdict':<18}{'largest difference':<20}{'seconds':>7}"
    for one in done.verdicts:
        apart = "-" if one.largest is None else f"{one.largest:.2g}"
        numbers = f"{apart:<20}{one.seconds or 0:>7.1f}"
        yield f"{one.step:<{width}}{one.rows or '-':>7}  {one.verdict:<18}{numbers}"
    for one in done.verdicts:
        if one.verdict == "different":
            labels = sum(row["before"] != row["now"] for row in one.changed)
            yield f"{one.step}: {one.detail or f'{labels:,} of {one.rows:,} rows change label'}"
        for row in one.changed[:_SHOWN]:
            yield f"  {row['id']:<12}  {row['before']} -> {row['now']}  ({row['apart']:.2g} apart)"
        if len(one.changed) > _SHOWN:
            yield f"  and {len(one.changed) - _SHOWN:,} more; --json has all"
    if any(one.verdict == "within tolerance" for one in done.verdicts):
        yield f"within tolerance: the same labels, probabilities at most {TOLERANCE:g} apart;"
        yield f"{WHY_TOLERANCE}."
    yield from (f"note: {note}" for note in done.notes)
