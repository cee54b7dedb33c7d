"""Commands on released versions: promote, rollback, archive, history, card."""

from __future__ import annotations

import functools
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nivesh_lib.cli.options import Json, echo, echo_json

if TYPE_CHECKING:
    from nivesh_lib.hash_chain import Entry
    from nivesh_lib.releases.promotion import Changed

Name = Annotated[str, typer.Option(help="The registered model.")]
Version = Annotated[str, typer.Argument(metavar="VERSION", help="Such as 1.2.0.")]
Why = Annotated[str, typer.Option(help="For the release log.")]
_MODEL = "intent_classifier"
_DONE = {
    "release": "released",
    "promotion": "promoted to {stage}",
    "rollback": "rolled back to, from {leaves}",
    "archive": "archived",
    "canary": "canary: {step}",
}


def promote(
    version: Version,
    to: Annotated[str, typer.Option(help="staging or production.")],
    override: Annotated[
        str, typer.Option(help="Why, although a gate is not met; kept in log, card and report.")
    ] = "",
    why: Why = "",
    name: Name = _MODEL,
    as_json: Json = False,
) -> None:
    """Bring a released version to a stage, if it passes the gates of that stage.

    Example: nivesh promote 1.2.0 --to staging

    Example: nivesh promote 1.2.0 --to production --override "pilot with 50 users, agreed"
    """
    from nivesh_lib.releases import promotion

    changed = promotion.promote(version, to, name=name, override=override, why=why)
    _print(changed, as_json)


def rollback(why: Why = "", name: Name = _MODEL, as_json: Json = False) -> None:
    """Bring back the last version in production that passed its gates and still verifies.

    Example: nivesh rollback --why "answers about tax got worse"
    """
    from nivesh_lib.releases import promotion

    _print(promotion.rollback(name=name, why=why), as_json)


def archive(
    days: Annotated[float, typer.Option(min=0, help="Days without a change of stage.")] = 30,
    version: Annotated[str, typer.Option(help="This one alone, whenever it moved.")] = "",
    name: Name = _MODEL,
    as_json: Json = False,
) -> None:
    """Archive the versions that no stage points to and that did not move for some days.

    Example: nivesh archive --days 30

    Example: nivesh archive --version 1.1.0
    """
    from nivesh_lib.releases import promotion

    done = promotion.archive(name=name, days=days, version=version)
    if as_json:
        echo_json([changed.entry for changed in done])
    else:
        echo(*(_line(changed.entry) for changed in done) if done else ["nothing to archive"])


def history(
    at: Annotated[
        str, typer.Option(help="What was where at a time, such as 2026-03-01T12:00 (UTC).")
    ] = "",
    name: Name = _MODEL,
    as_json: Json = False,
) -> None:
    """Show what was released, promoted and rolled back, when, by whom and why.

    Example: nivesh history --at 2026-03-01T12:00
    """
    from nivesh_lib.releases.log import read_log, state_of
    from nivesh_lib.releases.promotion import notices

    until = _time(at)
    entries = [entry for entry in read_log(name) if entry["timestamp"] <= until]
    state = state_of(entries)
    told = notices(name) if not at else []
    if as_json:
        where = {key: getattr(state, key) for key in ("production", "staging", "previous")}
        echo_json({**where, "stages": state.stages, "entries": entries, "notices": told})
        return
    for entry in entries:
        echo(_line(entry))
        if entry.get("override"):
            missed = ", ".join(g["name"] for g in entry["gates"] if g["verdict"] != "met")
            echo(f"{'':22}although not met: {missed}. Why: {entry['override']}")
    then = f"at {until}: " if at else ""
    echo(f"{then}production {state.production or 'none'}, staging {state.staging or 'none'}, "
         f"previous {state.previous or 'none'}")  # fmt: skip
    echo(*(f"warning: {one}" for one in told))


def card(version: Version, name: Name = _MODEL, as_json: Json = False) -> None:
    """Print the model card of a release, after checking that its files are those released.

    Example: nivesh card 1.2.0
    """
    from nivesh_lib.releases.card import card_of
    from nivesh_lib.releases.log import read_log, released
    from nivesh_lib.releases.package import Package

    entry = released(read_log(name), version)
    package = Package.of(name, entry["version"])
    release = package.verify(entry)
    if as_json:
        echo_json(release.as_dict())
    else:  # README.md is not among the files that are checked: promotions are added to it
        echo(*card_of(package).content.splitlines())


def _time(at: str) -> str:
    """Return a time in the form of the log's; one without a zone is UTC."""
    if not at:
        return "9999"
    try:
        parsed = datetime.fromisoformat(at)
    except ValueError:
        raise typer.BadParameter(f"--at {at}: is no time such as 2026-03-01T12:00") from None
    utc = parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)
    return utc.isoformat(timespec="seconds")


def _line(entry: Entry) -> str:
    done = f"{entry['version']} {_DONE[entry['kind']].format_map(entry)}"
    return f"{entry['timestamp'][:19]}Z  {done}, by {entry['who']}: {entry['why']}"


def _print(changed: Changed, as_json: bool) -> None:
    tell = functools.partial(echo, err=as_json)
    entry: dict[str, Any] = changed.entry
    for note in changed.notes:
        tell(f"warning: {note}")
    tell(_line(entry), "Commit data/release_log.jsonl.")
    if as_json:
        echo_json({**entry, "notes": changed.notes})
