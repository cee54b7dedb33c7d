"""The command ``nivesh status``: what runs and how it does, on one screen."""

from __future__ import annotations

import textwrap
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from nivesh_lib.cli.options import Json, echo, echo_json
from nivesh_lib.wording import counted, percent

if TYPE_CHECKING:
    from nivesh_lib.serving.status import Alerts, Bucket, Releases, Server, Signals, Status

_MOST = 6  # reasons, and alerts, that are shown
_WIDE = 66  # characters beside a label
_RUN_IT = "prometheus --config.file deploy/prometheus/local.yml"
Rows = list[tuple[str, str]]


def status(
    url: Annotated[str, typer.Option(help="The server to ask.")] = "http://127.0.0.1:8000",
    prometheus: Annotated[
        str, typer.Option(envvar="NIVESH_PROMETHEUS", help="The Prometheus to ask for alerts.")
    ] = "",
    name: Annotated[str, typer.Option(help="The registered model.")] = "intent_classifier",
    as_json: Json = False,
) -> None:
    """Show what runs, since when, and how it does: releases, server, signals, drift, alerts.

    The server's counters are read twice, a second apart. The exit code is 1 where the release log
    is broken or a URL is none. A server or a Prometheus that does not answer is a line of the
    screen, and 0.

    Example: nivesh status

    Example: nivesh status --url http://10.0.0.5:8000 --prometheus http://127.0.0.1:9090 --json
    """
    from nivesh_lib.serving.status import status as gather

    known = gather(name, url, prometheus)
    if as_json:
        echo_json(asdict(known))
    else:
        _print(known)
    if known.releases.problem:
        raise typer.Exit(1)


def _print(known: Status) -> None:
    server = known.server
    _section(f"{known.name}, {_time(known.at)}", _placed(known.releases))
    _section(f"Server {server.url}", _served(known))
    if server.last and server.total:
        columns = [_signals(server.last), _signals(server.total)]
        rows = [(key, f"{columns[0][key]:<24}{columns[1][key]}") for key in columns[0]]
        since = f"{f'last {server.last.seconds:.1f} s':<24}since {_time(server.started)}"
        load = f"{counted(server.waiting, 'query waits', 'queries wait')}"
        rows += [("saturation", f"{load}, {server.memory_mb:,.0f} MB of memory")]
        _section(f"{'Signals':<14}{since}", rows)
        _section("Answers", _answers(server))
    _section("Alerts", _alerts(known.alerts))


def _section(title: str, rows: Rows) -> None:
    echo(title)
    for label, text in rows:
        # Columns of a table keep their blanks; what is longer than a line is a sentence.
        lines = [text] if len(text) <= _WIDE else textwrap.wrap(text, _WIDE, break_on_hyphens=False)
        for first, line in zip([label, *[""] * len(lines)], lines, strict=False):
            echo(f"  {first:<12}{line}")


def _placed(releases: Releases) -> Rows:
    if releases.problem:
        return [("unknown", releases.problem)]
    rows = []
    for stage in ("production", "staging", "previous"):
        told, one = "none", releases.stages.get(stage)
        if one:
            told = f"{one['version']:<8}since {_time(one['since'])}, by {one['who']}"
        rows.append((stage, told))
    if releases.note:
        rows.append(("", releases.note))
    if on := releases.canary:
        step = f"{on['share']} % of users" if on["share"] else "shadow"
        rows.append(("canary", f"{on['version']:<8}since {_time(on['since'])}, {step}"))
        evidence = f"{counted(on['n'], 'pair')}, e-value {on['e_value']:.3g}"
        rows.append(("evidence", f"{evidence}; rolled back from {on['bound']:.0f} on"))
    return rows


def _served(known: Status) -> Rows:
    server = known.server
    if not server.status:
        return [("unknown", f"{server.problem}. To start a server: .venv/bin/nivesh serve")]
    model = "" if server.model == known.name else f" of {server.model}"
    told = f"serves {server.release or 'no release'}{model} since {_time(server.served_since)}"
    if placed := known.releases.stages.get("production"):
        by_log = f"; the log says {placed['version']}"
        told += ", as the log says" if server.as_logged else by_log
    reasons = [("because", one) for one in _few(server.reasons)]
    return [(server.status, told), *reasons] + ([("", server.problem)] if server.problem else [])


def _signals(found: Signals) -> dict[str, str]:
    traffic = f"{found.requests / found.seconds:.3g} a second ({found.requests:,})"
    share = f" ({percent(found.errors / found.requests)})" if found.requests else ""
    return {
        "latency p50": _bucket(found.p50),
        "latency p95": _bucket(found.p95),
        "traffic": traffic,
        "errors 5xx": f"{found.errors:,}{share}",
        "refused 4xx": f"{found.refused:,}",
    }


def _bucket(found: Bucket | None) -> str:
    if found is None:
        return "no answers"
    low, high = found
    return (
        f"above {1_000 * low:g} ms" if high is None else f"{1_000 * low:g} to {1_000 * high:g} ms"
    )


def _answers(server: Server) -> Rows:
    estimate = server.estimated_accuracy
    accuracy = f"not estimated before 100 answers ({server.answers} so far)"
    if estimate is not None:
        accuracy = f"{percent(estimate)}, the mean confidence of {server.answers:,} answers"
    corrected = "none"
    if server.corrections:
        of = counted(server.corrections, "correction")
        corrected = f"the answer agreed with {server.corrections_agreed:,} of {of}"
    drift = "not tested: not a release, or one without what to compare with"
    if server.drift is not None:
        p = "" if server.drift_p is None else f", p {server.drift_p:.3g}"
        drift = f"{'found' if server.drift else 'not found'}{p}"
    return [("accuracy", accuracy), ("corrections", corrected), ("drift", drift)]


def _alerts(alerts: Alerts) -> Rows:
    if alerts.problem:
        how = f"Run `{_RUN_IT}`, and give --prometheus http://127.0.0.1:9090"
        return [("unknown", f"{alerts.problem}. {how}")]
    if not alerts.active:
        return [("none", f"of {counted(alerts.rules or 0, 'rule')} is firing or pending")]
    told = ("{severity} {name}: {summary}. {runbook}".format_map(one) for one in alerts.active)
    states = [one["state"] for one in alerts.active]
    return list(zip([*states[:_MOST], ""], _few(tuple(told)), strict=False))


def _few(texts: tuple[str, ...]) -> list[str]:
    more = [f"and {len(texts) - _MOST} more; --json has all"] if len(texts) > _MOST else []
    return [*texts[:_MOST], *more]


def _time(stamp: str) -> str:
    return f"{stamp[:19]}Z" if stamp else "an unknown time"
