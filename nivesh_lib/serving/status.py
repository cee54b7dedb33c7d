"""What runs and how it does: by the release log, by a server itself, and by Prometheus' alerts.

Nothing is judged here: what is healthy the server says, what fires Prometheus says.
"""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from threading import Thread
from time import monotonic, sleep, time
from typing import Any
from urllib.parse import urlsplit

from nivesh_lib.errors import DataError, NiveshError
from nivesh_lib.records.schema import fits
from nivesh_lib.releases.log import nothing_released, read_log, state_of
from nivesh_lib.serving import metrics

TIMEOUT = 2.0  # seconds for each answer, the look-up of the host's name included
APART = 1.0  # seconds between the two looks at a server's counters
_MOVES = ("promotion", "rollback")  # lines that bring a version to one of the stages that are shown
LEAST = 100  # answers that accuracy is estimated from, as in Prometheus' rules
_NEVER = 2**33  # Unix time
_LARGEST = 8 * 2**20  # bytes of an answer
_HEALTH = dict.fromkeys(("status", "model", "release", "served_since"), str) | {"reasons": [str]}
_ALERT = {"state": str, "labels": {"*": str}, "annotations": {"*": str}, "activeAt": str}
Counts = Mapping[metrics.Sample, float]
Bucket = tuple[float, float | None]  # its bounds in seconds; the last one has no upper one


@dataclass(frozen=True)
class Signals:
    """What a server counted in so many seconds, of all releases that it answered with.

    ``requests`` were owed an answer; ``errors`` are those of them without one (5xx), ``refused``
    others (4xx). ``p50`` and ``p95``: the buckets that these latencies are in.
    """

    seconds: float
    requests: int
    errors: int
    refused: int
    p50: Bucket | None
    p95: Bucket | None

    @classmethod
    def of(cls, counts: Counts, seconds: float) -> Signals:
        """Return the signals of what was counted in so many seconds."""
        n = {
            one: round(_sum(counts, "model_predictions_total", status=one))
            for one in metrics.OUTCOMES
        }
        errors = n["error"] + n["overload"]
        buckets: defaultdict[float, float] = defaultdict(float)
        for (name, labels), value in counts.items():
            if name == "model_prediction_latency_seconds_bucket":
                buckets[float(dict(labels)["le"])] += value
        p50, p95 = _bucket(buckets, 0.5), _bucket(buckets, 0.95)
        return cls(seconds, n["success"] + errors, errors, n["refused"], p50, p95)


@dataclass(frozen=True)
class Server:
    """What a server says of itself; ``problem``: why it, or what it counts, is not known.

    ``as_logged``: whether it answers with what the log has in production. ``last`` are the
    signals of the last second, ``total`` those since its start. ``estimated_accuracy`` is the
    mean confidence of ``answers``. ``drift`` is None where it tests for none.
    """

    url: str
    problem: str = ""
    status: str = ""
    reasons: tuple[str, ...] = ()
    model: str = ""
    release: str = ""
    served_since: str = ""
    as_logged: bool | None = None
    started: str = ""
    last: Signals | None = None
    total: Signals | None = None
    waiting: int = 0
    memory_mb: float = 0.0
    answers: int = 0
    estimated_accuracy: float | None = None
    corrections: int = 0
    corrections_agreed: int = 0
    drift: bool | None = None
    drift_p: float | None = None


@dataclass(frozen=True)
class Releases:
    """Version, since when and by whom of each stage, and the canary as `canary.status` has it.

    ``note`` says where the log that was read has nothing of the registered model.
    """

    problem: str = ""
    stages: dict[str, dict[str, str]] = field(default_factory=dict)
    canary: dict[str, Any] | None = None
    note: str = ""


@dataclass(frozen=True)
class Alerts:
    """Alerts of a Prometheus that are firing or pending; where none is, how many rules it has."""

    url: str
    problem: str = ""
    active: tuple[dict[str, str], ...] = ()
    rules: int | None = None


@dataclass(frozen=True)
class Status:
    """What runs and how it does, at a time."""

    at: str
    name: str
    releases: Releases
    server: Server
    alerts: Alerts


def status(name: str, url: str, prometheus: str = "") -> Status:
    """Return what is known of a registered model; what is not has its ``problem``.

    Parameters
    ----------
    url, prometheus
        Where a server and Prometheus answer; ``prometheus`` may be empty.

    Raises
    ------
    NiveshError
        One of them is no URL.
    """
    url, prometheus = _url(url), _url(prometheus) if prometheus else ""
    releases, server = releases_of(name), server_of(url)
    if server.status and (placed := releases.stages.get("production")):
        as_logged = (server.model, server.release) == (name, placed["version"])
        server = replace(server, as_logged=as_logged)
    return Status(_stamp(time()), name, releases, server, alerts_of(prometheus))


def releases_of(name: str) -> Releases:
    """Return which version of a registered model is where by the log."""
    try:
        entries = read_log(name)
    except DataError as error:
        return Releases(str(error))
    state, stages = state_of(entries), {}
    for stage in ("production", "staging", "previous"):
        if version := getattr(state, stage):
            since = state.since[version]
            # A version that became the previous one was moved by the line of its successor.
            who = [e["who"] for e in entries if e["timestamp"] == since and e["kind"] in _MOVES]
            stages[stage] = {"version": version, "since": since, "who": who[-1]}
    if not state.canary:
        return Releases("", stages, note="" if entries else nothing_released(name))
    from nivesh_lib.releases import canary  # its tests need a third of a second of imports

    return Releases("", stages, canary.status(name))


def server_of(url: str) -> Server:
    """Return what a server says of itself; its counters are read twice."""
    try:
        health = _json(url, "/health", _HEALTH, "a server of `nivesh serve`")
    except NiveshError as error:
        return Server(url, str(error))
    said = {key: health[key] for key in _HEALTH} | {"reasons": tuple(health["reasons"])}
    known = Server(url, **said)
    try:
        before, read = _counts(url), monotonic()
        sleep(APART)
        now, seconds = _counts(url), monotonic() - read
    except NiveshError as error:
        return replace(known, problem=str(error))
    # A server that was started again in between counts from zero.
    last = {key: max(0.0, value - before.get(key, 0.0)) for key, value in now.items()}
    started = _sum(now, "model_start_time_seconds")
    answers = round(_sum(now, "prediction_confidence_count"))
    agreed = round(_sum(now, "feedback_corrections_total", agrees="yes"))
    drift = {name: value for (name, _), value in now.items() if name.startswith("model_drift")}
    return replace(
        known,
        started=_stamp(started),
        last=Signals.of(last, seconds),
        total=Signals.of(now, max(1.0, time() - started)),  # by its clock, which may be ahead
        waiting=round(_sum(now, "model_queries_waiting")),
        memory_mb=round(_sum(now, "model_memory_mb"), 1),
        answers=answers,
        estimated_accuracy=_sum(now, "prediction_confidence_sum") / answers
        if answers >= LEAST
        else None,
        corrections=agreed + round(_sum(now, "feedback_corrections_total", agrees="no")),
        corrections_agreed=agreed,
        drift=bool(drift["model_drift"]) if "model_drift" in drift else None,
        drift_p=drift.get("model_drift_p_value"),
    )


def alerts_of(url: str) -> Alerts:
    """Return the alerts of a Prometheus, what is firing and critical first."""
    if not url:
        return Alerts("", "no Prometheus was named")
    try:
        found = _json(url, "/api/v1/alerts", {"data": {"alerts": [_ALERT]}}, "Prometheus")
        if found["data"]["alerts"]:
            active = map(_alert, found["data"]["alerts"])
            order = sorted(active, key=lambda a: (a["state"] != "firing", a["severity"], a["name"]))
            return Alerts(url, active=tuple(order))
        shape = {"data": {"groups": [{"rules": [dict]}]}}  # without rules, silence tells nothing
        found = _json(url, "/api/v1/rules?type=alert", shape, "Prometheus")
    except NiveshError as error:
        return Alerts(url, str(error))
    rules = sum(len(group["rules"]) for group in found["data"]["groups"])
    return Alerts(url, "" if rules else f"{url} has no rules that alert", rules=rules)


def _alert(found: dict[str, Any]) -> dict[str, str]:
    labels, notes = found["labels"], found["annotations"]
    return {
        "name": labels.get("alertname", ""),
        "state": found["state"],
        "severity": labels.get("severity", ""),
        "summary": notes.get("summary", ""),
        "runbook": notes.get("runbook_url", ""),
        "since": found["activeAt"],
    }


# --- what a server counts ----------------------------------------------------------------------


def _counts(url: str) -> Counts:
    try:
        found = metrics.samples(_get(url, "/metrics").decode())
    except ValueError:
        found = {}
    if not 0 < _sum(found, "model_start_time_seconds") < _NEVER:
        raise NiveshError(f"{url}/metrics is not that of `nivesh serve`, or of an older version")
    return {key: value for key, value in found.items() if math.isfinite(value)}


def _sum(counts: Counts, name: str, **labels: str) -> float:
    """Return the sum of the series of a name that have some labels."""
    wanted = labels.items()
    return sum(v for (one, has), v in counts.items() if one == name and wanted <= dict(has).items())


def _bucket(buckets: Mapping[float, float], share: float) -> Bucket | None:
    """Return the bounds of the bucket that a quantile is in, None where nothing was observed."""
    total, lower = buckets.get(math.inf, 0.0), 0.0
    for upper, count in sorted(buckets.items()):
        if total and count >= share * total:
            return lower, upper if upper < math.inf else None
        lower = upper
    return None


def _stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


# --- HTTP --------------------------------------------------------------------------------------


def _url(text: str) -> str:
    """Return a URL without a slash at its end; raises NiveshError where it cannot be asked."""
    try:
        parts = urlsplit(text)
        sound = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        # No name and password: they would be shown.
        sound = sound and re.fullmatch("[!-~]+", text) and "@" not in parts.netloc
    except ValueError:
        sound = False
    if not sound:
        shown = text.rpartition("@")[2]  # a password may stand before it
        raise NiveshError(
            f"{shown}: is no URL that can be asked. Give one as http://127.0.0.1:8000"
        )
    return text.rstrip("/")


def _json(url: str, path: str, shape: Any, who: str) -> dict[str, Any]:
    try:
        found = json.loads(_get(url, path))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not fits(found, shape):
        raise NiveshError(f"{url}{path} is answered, but not as by {who}")
    return found


def _get(url: str, path: str) -> bytes:
    """Return the body that is answered within `TIMEOUT`, without proxies and redirects.

    Raises
    ------
    NiveshError
        Nothing is answered, or not with 200.
    """
    found: list[bytes | NiveshError] = []
    # A thread, since neither looking up a name nor a body that comes byte by byte ends in time.
    asking = Thread(target=lambda: found.append(_asked(url, path)), daemon=True)
    asking.start()
    asking.join(TIMEOUT)
    late = NiveshError(f"{url} answers nothing within {TIMEOUT:g} s: it hangs, or is out of reach")
    answer = found[0] if found else late
    if isinstance(answer, NiveshError):
        raise answer
    return answer


def _asked(url: str, path: str) -> bytes | NiveshError:
    parts = urlsplit(url)
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    connection = kind(str(parts.hostname), parts.port, timeout=2 * TIMEOUT)
    try:
        connection.request("GET", parts.path + path)
        response = connection.getresponse()
        body = response.read(_LARGEST)
    except HTTPException:
        return NiveshError(f"{url} answers, but not by HTTP")
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        return NiveshError(f"nothing answers at {url} ({why})")
    finally:
        connection.close()
    return (
        body
        if response.status == 200
        else NiveshError(f"{url}{path} is answered with {response.status}")
    )
