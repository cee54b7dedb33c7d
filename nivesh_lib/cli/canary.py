"""Commands on a canary: start, status, abort."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from nivesh_lib.cli.options import Json, echo, echo_json

if TYPE_CHECKING:
    from nivesh_lib.hash_chain import Entry

Name = Annotated[str, typer.Option(help="The registered model.")]
Why = Annotated[str, typer.Option(help="For the release log.")]
_MODEL = "intent_classifier"
_SHARE = {"min": 0.001, "max": 0.999}


def start(
    version: Annotated[str, typer.Argument(metavar="VERSION", help="Such as 1.2.0.")],
    delta: Annotated[
        float,
        typer.Option(help="Share of queries, at most, that may fail or be slow more.", **_SHARE),
    ] = 0.05,
    alpha: Annotated[
        float, typer.Option(help="Probability, at most, that a sound one goes.", **_SHARE)
    ] = 0.05,
    max_requests: Annotated[
        int, typer.Option(min=1, help="Pairs a step; undecided then is a rollback.")
    ] = 10_000,
    disagreement: Annotated[
        float, typer.Option(help="Share of queries, at most, answered otherwise.", **_SHARE)
    ] = 0.2,
    at_once: Annotated[
        bool, typer.Option("--at-once", help="From shadow to everybody, as blue and green.")
    ] = False,
    override: Annotated[
        str, typer.Option(help="Why, although a gate of production is not met.")
    ] = "",
    why: Why = "",
    name: Name = _MODEL,
    as_json: Json = False,
) -> None:
    """Roll a release out beside the one in production: shadow, 10, 25, 50 %, then everybody.

    Servers do the rest: they go on, promote it, or roll it back, and write that to the log.

    Example: nivesh canary start 1.2.0

    Example: nivesh canary start 1.2.0 --delta 0.02 --max-requests 50000 --why "the new tokenizer"

    Example: nivesh canary start 1.2.0 --at-once
    """
    from nivesh_lib.releases import canary

    settings = canary.Settings(delta, alpha, max_requests, disagreement, at_once)
    entry = canary.start(version, settings, name=name, override=override, why=why)
    if as_json:
        echo_json(entry)
        return
    echo(
        f"{entry['version']} is a canary in shadow, by {entry['who']}: {entry['why']}",
        "A server that is running begins within a second. `nivesh canary status` tells how it "
        "goes, `nivesh canary abort` ends it.",
    )


def status(name: Name = _MODEL, as_json: Json = False) -> None:
    """Show the canary that is on: its step, the evidence so far, and what comes next.

    Example: nivesh canary status --json
    """
    from nivesh_lib.releases import canary

    known = canary.status(name)
    if as_json:
        echo_json(known)
    elif not known["version"]:
        last = known["last"]
        echo("no canary is on" + (f"; the last one: {_ended(**last)}" if last else ""))
    else:
        echo(*_lines(known))


def abort(why: Why = "", name: Name = _MODEL, as_json: Json = False) -> None:
    """End the canary that is on; production stays as it is, and servers follow within a second.

    Example: nivesh canary abort --why "a customer called"
    """
    from nivesh_lib.releases import canary

    entry = canary.abort(name=name, why=why)
    if as_json:
        echo_json(entry)
    else:
        echo(_ended(entry["version"], entry), "Commit data/release_log.jsonl.")


def _lines(known: dict[str, Any]) -> list[str]:
    return [
        f"{known['version']} against {known['against']}: "
        f"{known['step']}{' %' if known['share'] else ''}, since {known['since']}",
        f"  users      {known['share']} % canary, {known['share']} % control"
        if known["share"]
        else "  users      none; production answers, the canary the same queries",
        f"  evidence   {known['reason']}",
        f"  e-value    {known['e_value']:.3g}; rolled back at {known['bound']:.0f}",
        f"  next       {known['next']}",
    ]


def _ended(version: str, line: Entry) -> str:
    done = line.get("step") or ("promoted" if "canary" in line else "")
    if not done:  # a line about another version, or about this one by hand
        done = f"ended by {line['kind']} of {line['version']}"
    return f"{line['timestamp'][:19]}Z  {version} {done}: {line['why']}"
