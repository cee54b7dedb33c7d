"""The marks that `make bench-engines` holds our models against, each met or missed."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tests.benchmarks.engine_candidates import LOST_ELSEWHERE, ROWS_ELSEWHERE, engines
from tests.benchmarks.engine_tables import Speeds, milliseconds, per_second
from tests.benchmarks.peer_tables import megabytes

EAGER, SEED, SKLEARN = "torch-fp32", "seed-path", "sklearn"
SMALL, STUDENT, CASCADE, NGRAMS = "ours-int8", "static", "cascade", "tfidf"


@dataclass(frozen=True)
class Mark:
    """A mark and what was found; ``met`` is None where something was not measured."""

    met: bool | None
    text: str

    def __str__(self) -> str:
        word = {True: "met", False: "MISSED", None: "unknown"}[self.met]
        return f"{word:<8}{self.text}"

    def as_dict(self) -> dict[str, Any]:
        """Return the two fields as plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Ratio:
    """The median of the rounds' ratios, and the round in which ours did worst."""

    value: float
    worst: float


def ratio(ours: Sequence[float], other: Sequence[float], *, lower_wins: bool) -> Ratio:
    """Return ours over the other, round by round: what disturbs a round disturbs both."""
    each = [a / b for a, b in zip(ours, other, strict=True)]
    return Ratio(statistics.median(each), max(each) if lower_wins else min(each))


def marks(
    speeds: Mapping[int, Speeds],
    sizes: Mapping[str, int],
    quality: Mapping[str, Mapping[str, Any]],
) -> list[Mark]:
    """Return every mark: those of speed for each number of threads, then those of size."""
    found = []
    for threads, told in speeds.items():
        where = f"{threads} thread{'s' if threads > 1 else ''}"
        found += [
            single_query(told, where),
            best_single_query(told, where),
            seed_path(told, where),
            cascade(told, quality, where),
            ngrams(told, where),
        ]
    return [*found, *artefacts(next(iter(speeds.values()), {}), sizes, quality)]


def single_query(speeds: Speeds, where: str) -> Mark:
    """Hold a single query against a quarter of torch's time."""
    title = f"single query, {where}"
    if absent := _absent(speeds, SMALL, EAGER):
        return _unknown(title, absent)
    found = ratio(_p50s(speeds, SMALL), _p50s(speeds, EAGER), lower_wins=True)
    return Mark(
        found.value <= 0.25,
        f"{title}: {_ms(speeds, SMALL)}, {_ms(speeds, EAGER)}: {_told(found)}; at most 0.25",
    )


def best_single_query(speeds: Speeds, where: str) -> Mark:
    """Hold a single query against the fastest peer with the same weights, whatever it loses."""
    title = f"single query beside the best engine, {where}"
    peers = [n for n in speeds if n in _same_weights() and not engines()[n].ours]
    if absent := _absent(speeds, SMALL) or ([] if peers else ["any peer"]):
        return _unknown(title, absent)
    best = min(peers, key=lambda name: speeds[name]["batches"]["1"]["p50_ms"])
    found = ratio(_p50s(speeds, SMALL), _p50s(speeds, best), lower_wins=True)
    return Mark(
        found.value <= 1.0,
        f"{title}: {_ms(speeds, SMALL)}, {_ms(speeds, best)}: {_told(found)}; at most 1.00",
    )


def seed_path(speeds: Speeds, where: str) -> Mark:
    """Hold the rate on a file against that of the guide's code."""
    title = f"a file, {where}"
    if absent := _absent(speeds, SMALL, SEED):
        return _unknown(title, absent)
    found = ratio(_rates(speeds, SMALL), _rates(speeds, SEED), lower_wins=False)
    return Mark(
        found.value >= 15,
        f"{title}: {_qps(speeds, SMALL)}, {_qps(speeds, SEED)}: {_told(found)}; at least 15",
    )


def cascade(speeds: Speeds, quality: Mapping[str, Mapping[str, Any]], where: str) -> Mark:
    """Hold the cascade's rate against the best engine's, ours too, and its loss against 0.2."""
    title = f"cascade on a file, {where}"
    single = [name for name in speeds if name in _same_weights()]
    if absent := _absent(speeds, CASCADE) or ([] if single else ["any engine"]):
        return _unknown(title, absent)
    best = max(single, key=lambda name: speeds[name]["batches"]["file"]["per_second"])
    found = ratio(_rates(speeds, CASCADE), _rates(speeds, best), lower_wins=False)
    facts = speeds[CASCADE]["facts"]
    loss, words = _loss(quality[CASCADE], facts)
    shown = "".join(f", {name} {value:.3g}" for name, value in facts.items())
    return Mark(
        None if loss is None else bool(found.value >= 4 and loss <= 0.2),
        f"{title}: {_qps(speeds, CASCADE)}, {_qps(speeds, best)}: {_told(found)}; at least 4 "
        f"(10 is the dream); {words}, at most 0.2{shown}",
    )


def ngrams(speeds: Speeds, where: str) -> Mark:
    """Hold a single query of TF-IDF against a scikit-learn pipeline's."""
    title = f"TF-IDF single query, {where}"
    if absent := _absent(speeds, NGRAMS, SKLEARN):
        return _unknown(title, absent)
    found = ratio(_p50s(speeds, SKLEARN), _p50s(speeds, NGRAMS), lower_wins=False)
    return Mark(
        found.value >= 10,
        f"{title}: {_ms(speeds, NGRAMS)}, {_ms(speeds, SKLEARN)}: {_told(found)} faster; "
        "at least 10",
    )


def artefacts(
    speeds: Speeds, sizes: Mapping[str, int], quality: Mapping[str, Mapping[str, Any]]
) -> Iterable[Mark]:
    """Hold the sizes against a quarter and a fortieth of fp32's."""
    for name, part, points in ((SMALL, 4, 0.3), (STUDENT, 40, None)):
        title = f"size of {name}"
        if absent := _absent(sizes, name, EAGER):
            yield _unknown(title, absent)
            continue
        small = sizes[name] * part <= sizes[EAGER]
        text = (
            f"{title}: {megabytes(sizes[name])} MB of {megabytes(sizes[EAGER])} MB: "
            f"1/{sizes[EAGER] / sizes[name]:.2f}; at most 1/{part}"
        )
        loss, told = _loss(quality[name], speeds[name]["facts"] if name in speeds else {})
        if points is None:
            yield Mark(small, f"{text}; {told}")
        else:
            met = None if loss is None else bool(small and loss <= points)
            yield Mark(met, f"{text}; {told}, at most {points}")


def _same_weights() -> list[str]:
    """Return the engines that compute the whole network for each text, but for the guide's."""
    return [name for name, one in engines().items() if one.floor and name != SEED]


def _absent(measured: Mapping[str, Any], *names: str) -> list[str]:
    return [name for name in names if name not in measured]


def _unknown(title: str, absent: Sequence[str]) -> Mark:
    return Mark(None, f"{title}: {' and '.join(absent)} not measured")


def _loss(quality: Mapping[str, Any], facts: Mapping[str, float]) -> tuple[float | None, str]:
    """Return the points of accuracy lost against fp32, and the words for them.

    A label of one fold is more than any mark, so that all folds are asked where they can be.
    """
    if "difference" not in quality:
        return None, "accuracy was not judged"
    found = quality["difference"]
    # The last digits are of floating point, not of rows.
    loss, n = round(-100 * found["value"], 6) + 0.0, found["n"]
    told = f"it {_verb(loss)} {abs(loss):.1f} points on {n} rows"
    if not (more := facts.get(ROWS_ELSEWHERE)):
        return loss, told
    loss = (n * loss + more * facts[LOST_ELSEWHERE]) / (n + more)
    return loss, f"{told}, {_verb(loss)} {abs(loss):.2f} on {n + more:g} of all folds"


def _verb(loss: float) -> str:
    return "gains" if loss < 0 else "loses"


def _p50s(speeds: Speeds, name: str) -> list[float]:
    each: list[float] = speeds[name]["batches"]["1"]["p50_ms_each"]
    return each


def _rates(speeds: Speeds, name: str) -> list[float]:
    each: list[float] = speeds[name]["batches"]["file"]["per_second_each"]
    return each


def _ms(speeds: Speeds, name: str) -> str:
    return f"{name} {milliseconds(statistics.median(_p50s(speeds, name)))} ms"


def _qps(speeds: Speeds, name: str) -> str:
    return f"{name} {per_second(statistics.median(_rates(speeds, name)))} q/s"


def _told(found: Ratio) -> str:
    return f"{found.value:.2f} (worst round {found.worst:.2f})"
