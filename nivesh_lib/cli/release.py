"""The command ``nivesh release``: a model judged on rows that nobody has looked at."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nivesh_lib.cli.options import echo as echo_lines
from nivesh_lib.cli.options import echo_json
from nivesh_lib.ledger import ledger_path, openings
from nivesh_lib.paths import relative
from nivesh_lib.records.estimate import Estimate

if TYPE_CHECKING:
    from nivesh_lib.records.release import Gate
    from nivesh_lib.releases.holdout_evaluation import Candidate, LedgerEntry
    from nivesh_lib.releases.release import Prepared

Echo = Callable[[str], None]

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
    run: Annotated[
        str | None, typer.Argument(metavar="RUN", help="A run, or its path; default: latest.")
    ] = None,
    why: Annotated[
        str | None, typer.Option(help="For the ledger and the release log; needed to release.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="A model of the run such as 03_tfidf, a model directory, or models:/…"),
    ] = None,
    version: Annotated[
        str, typer.Option(help="A higher version than the one that follows from the changes.")
    ] = "",
    evaluate_only: Annotated[
        bool, typer.Option("--evaluate-only", help="Judge on the holdout, register nothing.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Show the checklists of the last release only.")
    ] = False,
    dataset: Annotated[
        str | None,
        typer.Option(help="With --evaluate-only: NAME@VERSION; default: what it learned from."),
    ] = None,
    reason: Annotated[
        str, typer.Option(help="Why this model has to be judged again; needed then.")
    ] = "",
    who: Annotated[
        str | None, typer.Option(help="For the ledger; default: git's user.name.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as JSON.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before opening.")] = False,
) -> None:
    """Judge the best model of a run on its held-out rows, once; package and register it.

    It takes the best model that may be served, and names the version after what changed. What is
    released is in Development: nivesh promote brings it to a stage.

    Example: nivesh release --why "candidate for January"

    Example: nivesh release 20260125-101500 --model 03_tfidf --why "small and fast" --yes --json

    Example: nivesh release --evaluate-only --why "how good is it really"
    """
    echo: Echo = functools.partial(echo_lines, err=as_json)
    if check:
        _print_checklist(as_json)
    elif evaluate_only:
        noted = "evaluation before a release" if why is None else why
        _evaluate(run, model, dataset, (who, noted, reason), echo, as_json, yes)
    elif why is None or not why.strip():
        raise typer.BadParameter("--why TEXT is missing: the ledger keeps why rows were opened")
    elif dataset is not None:
        raise typer.BadParameter("--dataset goes with --evaluate-only: a release is of its data")
    else:
        _release(run, model, version, (who, why, reason), echo, as_json, yes)


def _release(
    run: str | None,
    model: str | None,
    version: str,
    reasons: tuple[str | None, str, str],
    echo: Echo,
    as_json: bool,
    yes: bool,
) -> None:
    """Release a run's model, or the model at an address."""
    from nivesh_lib.ledger import ledger_path
    from nivesh_lib.releases import holdout_evaluation as evaluation
    from nivesh_lib.releases.package import Package
    from nivesh_lib.releases.release import make_release

    entry = evaluation.ledger_entry(*reasons)
    with _chosen(run, model) as ready:
        evaluation.check_places(ready.candidate, entry)
        _print_candidate(ready.candidate, entry, echo)
        if ready.in_place is not None:
            echo(f"in place {ready.in_place.version}: the same opening shows what it answers")
        echo(_MEANING.format(ledger=relative(ledger_path())))
        _confirm(yes)
        release, record = make_release(ready, entry, version=version)
    _print_scores(record, echo)
    echo("")
    echo(f"{release.name} {release.version} is released, in Development. {release.bump[0]}")
    for stage, gates in release.gates.items():
        print_gates(stage, gates, echo)
    folder = Package.of(release.name, release.version).folder
    echo(f"Packaged in {relative(folder)}; commit data/release_log.jsonl and the ledger.")
    echo(f"Next: nivesh promote {release.version} --to staging")
    if as_json:
        echo_json(release.as_dict())


@contextlib.contextmanager
def _chosen(run: str | None, model: str | None) -> Iterator[Prepared]:
    """Yield what is to be released: a model of a run by its step, or the model at an address."""
    from nivesh_lib.releases.release import prepared
    from nivesh_lib.runs.directories import find_run
    from nivesh_lib.serving.model_source import model_at

    is_step = model is not None and "/" not in model and not Path(model).exists()
    if model is None or is_step or run is not None:
        with prepared(find_run(run or "latest"), step=model or "") as ready:
            yield ready
    else:
        with (
            model_at(model) as folder,
            prepared(None, model=folder, source=model) as ready,
        ):
            yield ready


def print_gates(stage: str, gates: Sequence[Gate], echo: Echo) -> None:
    """Print the gates of a stage, each with its verdict and what was found."""
    missed = sum(not gate.passed for gate in gates)
    echo("")
    echo(f"{stage}: {len(gates) - missed} of {len(gates)} gates are met")
    for gate in gates:
        mark = _MARKS.get(gate.verdict, "·")
        echo(f"{mark} {gate.verdict:<13} {gate.mark}: {gate.found}. {gate.why}".rstrip())


def _print_checklist(as_json: bool) -> None:
    from nivesh_lib.releases.checklist import checklist, last_release

    lines = checklist(last_release())
    if as_json:
        echo_json([asdict(line) for line in lines])
        return
    for line in lines:
        echo_lines(f"{'✔' if line.shown else '·'} {line.item}: {line.evidence}")


def _evaluate(
    run: str | None,
    model: str | None,
    dataset: str | None,
    reasons: tuple[str | None, str, str],
    echo: Echo,
    as_json: bool,
    yes: bool,
) -> None:
    """Judge a model on its holdout without releasing it."""
    from nivesh_lib.ledger import ledger_path
    from nivesh_lib.releases import holdout_evaluation as evaluation
    from nivesh_lib.runs.directories import find_run
    from nivesh_lib.runs.leaderboard import best_model
    from nivesh_lib.serving.model_source import model_at

    address = model or (str(best_model(find_run(run))) if run else None)
    with model_at(address) as folder:
        candidate = evaluation.load_candidate(
            folder, source=address or relative(folder), dataset=dataset
        )
    entry = evaluation.ledger_entry(*reasons)
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
        record, _ = evaluation.evaluate_on_holdout(candidate, entry, latency)
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
            "Nobody is there to confirm. To open it all the same: add --yes",
            err=True,
        )
        raise typer.Exit(2)
    if not typer.confirm("Open it?", err=True):
        typer.echo("Not opened.", err=True)
        raise typer.Exit(1)


def _somebody_is_there() -> bool:
    return sys.stdin.isatty()


def _print_scores(record: Mapping[str, Any], echo: Echo) -> None:
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


def _print_verdict(record: Mapping[str, Any], path: Path, echo: Echo) -> None:
    from nivesh_lib.ledger import ledger_path

    _print_scores(record, echo)
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
