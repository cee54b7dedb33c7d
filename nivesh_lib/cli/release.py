"""The command ``nivesh release``: a model judged on rows that nobody has looked at."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nivesh_lib.cli.options import echo as echo_lines
from nivesh_lib.cli.options import echo_json
from nivesh_lib.ledger import ledger_path, openings
from nivesh_lib.paths import relative
from nivesh_lib.records.estimate import Estimate

if TYPE_CHECKING:
    from nivesh_lib.releases.holdout_evaluation import Candidate, LedgerEntry

Echo = Callable[[str], None]

_NOT_YET = (
    "Registering and promoting a model are not built yet. To judge one on the holdout: "
    "nivesh release --evaluate-only"
)
_MEANING = (
    "The opening is recorded in {ledger} for good. Every further look at held-out rows makes "
    "their scores a little less honest: open them for a model that is to be released, not to "
    "choose between models."
)
_AGAIN = (
    "Its latency was not decided when the holdout was opened ({when}); it is measured again on "
    "training queries. Nothing is opened."
)
_QUIET = (
    "Latency is undecided. On a machine that does nothing else, run the same command again: it "
    "measures the latency only and opens nothing."
)
_MARKS = {"met": "✔", "not met": "✘", "undecided": "~"}
_VERDICTS = {
    "met": "Verdict: every objective is met on rows that were held out.",
    "undecided": "Verdict: undecided; more held-out rows would decide.",
    "undecided latency": "Verdict: undecided; only the latency is open.",
    "not met": "Verdict: not met. It is not ready for release.",
}


def release(
    evaluate_only: Annotated[
        bool, typer.Option("--evaluate-only", help="Judge on the holdout, register nothing.")
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(help="Model directory, models:/… or runs:/…; default: the best of the last."),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="NAME@VERSION; default: what the model was trained on.")
    ] = None,
    why: Annotated[str, typer.Option(help="For the ledger.")] = "evaluation before a release",
    reason: Annotated[
        str, typer.Option(help="Why this model has to be judged again; needed then.")
    ] = "",
    who: Annotated[
        str | None, typer.Option(help="For the ledger; default: git's user.name.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as JSON.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before opening.")] = False,
) -> None:
    """Judge a model on its held-out rows, once, and record that they were opened.

    Example: nivesh release --evaluate-only --why "candidate for January"
    """
    if not evaluate_only:
        typer.echo(_NOT_YET, err=True)
        raise typer.Exit(2)
    from nivesh_lib.releases import holdout_evaluation as evaluation
    from nivesh_lib.serving.model_source import model_at

    echo: Echo = functools.partial(echo_lines, err=as_json)
    with model_at(model) as folder:
        candidate = evaluation.load_candidate(
            folder, source=model or relative(folder), dataset=dataset
        )
    entry = evaluation.ledger_entry(who, why, reason)
    opening = None if entry.reason else evaluation.undecided_latency(candidate)
    if opening is None:
        evaluation.check_places(candidate, entry)
    _print_candidate(candidate, entry, echo)
    if opening is not None:
        echo(_AGAIN.format(when=opening.timestamp))
        record = evaluation.measure_latency_again(candidate, opening)
    else:
        echo(_MEANING.format(ledger=relative(ledger_path())))
        _confirm(yes)
        latency = evaluation.candidate_latency(candidate)
        record = evaluation.evaluate_on_holdout(candidate, entry, latency)
    path = evaluation.write_record(record)
    _print_verdict(record, path, echo)
    if as_json:
        echo_json(record)


def _print_candidate(candidate: Candidate, entry: LedgerEntry, echo: Echo) -> None:
    from nivesh_lib.releases.holdout_evaluation import past_openings

    if entry.commit == "no git":
        echo("warning: no git commit here, so the ledger cannot say which code this is")
    elif entry.commit.endswith("-dirty"):
        echo("warning: there are uncommitted changes; the commit is recorded as dirty")
    _warn_of_git(echo)
    trained = candidate.trained_on or "unknown data"
    echo(
        f"model    {candidate.source} ({candidate.kind}, {candidate.model_hash[:8]}), "
        f"trained on {trained}"
    )
    if trained.partition("@")[0] != candidate.data.name:
        echo("warning: whether it was trained on some of the held-out rows is not known")
    for data in candidate.datasets:
        past = past_openings(data)
        opened = f"{_count(past.times, 'time')} before, for {_count(past.models, 'model')}"
        others = f"; other versions of {data.name} {_count(past.other_versions, 'time')}"
        echo(
            f"holdout  {data.ref}, {len(data.manifest['holdout']):,} rows, opened "
            + (opened if past.times else "never before")
            + (others if past.other_versions else "")
        )


def _warn_of_git(echo: Echo) -> None:
    """Say where git cannot tell whether committed lines of the ledger are gone."""
    from nivesh_lib.reproducibility import git_standing

    standing, _, elsewhere = git_standing(ledger_path()).partition("; ")
    blind = "so nobody can tell whether lines of the ledger are gone"
    if standing == "missing":
        echo(f"warning: git is missing, {blind}")
    elif standing == "no commit":
        echo(f"warning: git has no commit here, or refuses this folder, {blind}")
    elif standing.startswith("not in ") and openings():
        echo(f"warning: the ledger is not in git's last commit, {blind}; commit it")
    if elsewhere:
        echo(
            f"warning: {elsewhere.removesuffix(' elsewhere')} points to another repository; "
            "git was asked about this one"
        )


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'s' * (n != 1)}"


def _confirm(yes: bool) -> None:
    if yes:
        return
    if not _somebody_is_there():
        typer.echo(
            "Nobody is there to confirm. To open it all the same: "
            "nivesh release --evaluate-only … --yes",
            err=True,
        )
        raise typer.Exit(2)
    if not typer.confirm("Open it?", err=True):
        typer.echo("Not opened.", err=True)
        raise typer.Exit(1)


def _somebody_is_there() -> bool:
    return sys.stdin.isatty()


def _print_verdict(record: Mapping[str, Any], path: Path, echo: Echo) -> None:

    echo("")
    for name, key in (("accuracy", "accuracy"), ("macro-F1", "macro_f1")):
        score = Estimate(**record["metrics"][key])
        echo(f"{name:<9}{score} on {score.n:,} held-out queries")
    for row in record["slices"]:
        low, high = row["accuracy_low"], row["accuracy_high"]
        accuracy = Estimate(row["accuracy"], low, high, row["rows"])
        echo(f"         {row['slice']:<32}{row['rows']:>6,} rows  accuracy {accuracy}")
    if away := record["turned_away"]:
        outside, inside = (Estimate(**away[name]) for name in ("out_of_scope", "in_scope"))
        echo(
            f"Turned away, by {away['rule']}: {outside} of {outside.n:,} out-of-scope queries, "
            f"{inside} of those in scope"
        )
    for judged in record["judgements"]:
        mark = _MARKS[judged["status"]]
        echo(f"{mark} {judged['status']}: {judged['objective']} (found {judged['found']})")
    none = f"Verdict: none. {record['objectives']['missing']}"
    undecided = [j["objective"] for j in record["judgements"] if j["status"] == "undecided"]
    latency = [objective for objective in undecided if objective.startswith("latency")]
    only = " latency" * (record["verdict"] == "undecided" and undecided == latency)
    echo(_VERDICTS.get(record["verdict"] + only, none))
    if latency:
        echo(_QUIET)
    echo(f"Recorded in {relative(path)} and {relative(ledger_path())}; commit the ledger.")
