"""A release candidate and its evaluation on held-out rows, which are opened here only.

Everything that can fail without the rows is tried before they are opened.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nivesh_lib.data.holdout import (
    Holdout,
    check_opening,
    open_holdout,
    record_latency,
    record_scores,
)
from nivesh_lib.data.versions import Dataset, load_dataset, parse_ref
from nivesh_lib.errors import DataError, HoldoutError, ModelError
from nivesh_lib.evaluation.benchmark import measure_latency
from nivesh_lib.evaluation.confidence.calibration import calibration_error
from nivesh_lib.evaluation.objectives import (
    Objective,
    file_of,
    judge_all,
    none_set,
    objectives_for,
    values_for,
)
from nivesh_lib.evaluation.summary import release_scores, turned_away, worst
from nivesh_lib.files import new_file, write_errors
from nivesh_lib.ledger import Opening, openings
from nivesh_lib.models.base import TextClassifier, load_with_card
from nivesh_lib.models.directory import model_hash
from nivesh_lib.paths import data_dir, releases_dir
from nivesh_lib.records.metrics import estimate_in
from nivesh_lib.records.release import AnsweredRow
from nivesh_lib.releases.answers import answered_rows
from nivesh_lib.reproducibility import author, code_version, environment

if TYPE_CHECKING:
    pass

Accepts = Callable[[list[str], np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Candidate:
    """A loaded model and the data it is to be judged on.

    ``source`` is what a person calls the model; ``min_confidence`` is that of the objectives.
    """

    source: str
    kind: str
    model_hash: str
    trained_on: str
    model: TextClassifier
    data: Dataset
    out_of_scope: Dataset | None
    objectives: list[Objective]
    min_confidence: float | None

    @property
    def datasets(self) -> list[Dataset]:
        """The data versions whose holdouts are opened."""
        return [self.data] if self.out_of_scope is None else [self.data, self.out_of_scope]


@dataclass(frozen=True)
class LedgerEntry:
    """Who opens the holdout, why, why again, and with which code."""

    who: str
    why: str
    reason: str
    commit: str


@dataclass(frozen=True)
class PastOpenings:
    """How often the holdout of a version was opened, for how many models; and other versions."""

    times: int
    models: int
    other_versions: int


def load_candidate(folder: Path, *, source: str, dataset: str | None = None) -> Candidate:
    """Return the model in a directory as a candidate.

    Parameters
    ----------
    dataset
        The version to judge it on; by default what it was trained on.

    Raises
    ------
    NiveshError
        The model or the data cannot be loaded, or do not fit each other.
    """
    model, card = load_with_card(folder)
    trained_on = str(card["data"])
    ref = dataset or trained_on
    if not ref:
        raise ModelError(f"{source}: does not say what it was trained on; add --dataset")
    _refuse_drafts(source, (ref, trained_on))
    data = load_dataset(ref)  # verifies the file, and returns no held-out row
    _check_labels(source, model, data)
    least = values_for(data.name).get("min_confidence")
    can_refuse = hasattr(model, "accepts") or least is not None
    return Candidate(
        source=source,
        kind=str(card["kind"]),
        model_hash=model_hash(card),
        trained_on=trained_on,
        model=model,
        data=data,
        out_of_scope=_out_of_scope(data.name) if can_refuse else None,
        objectives=objectives_for("", dataset=data.ref),
        min_confidence=least,
    )


def _refuse_drafts(source: str, refs: tuple[str, ...]) -> None:
    for ref in filter(None, refs):
        if (parse_ref(ref)[1] or "").startswith("0."):
            raise DataError(
                f"{ref} is a draft: it may be replaced, and a row held out now may have been "
                f"trained on. Publish it as 1.0.0 and train {source} on that."
            )


def _check_labels(source: str, model: TextClassifier, data: Dataset) -> None:
    known, wanted = set(map(str, model.classes_)), set(data.labels)
    if known != wanted:
        differing = ", ".join(map(repr, sorted(known ^ wanted)[:5]))
        raise ModelError(
            f"{source}: its classes are not the labels of {data.ref} (only one of them has "
            f"{differing}). Name the data it was trained on with --dataset, or train it on this "
            "version"
        )


def _out_of_scope(name: str) -> Dataset | None:
    """Return the assistant's out-of-scope set; what is out of scope elsewhere is not known."""
    if name != "intents" or not (data_dir() / "out_of_scope").is_dir():
        return None
    data = load_dataset("out_of_scope")
    return data if data.manifest["holdout"] else None


def ledger_entry(who: str | None, why: str, reason: str) -> LedgerEntry:
    """Return an entry with the present commit; ``who`` is git's user unless given.

    Raises
    ------
    HoldoutError
        ``who`` or ``why`` is empty.
    """
    name = author() if who is None else who
    for option, value in (("--who", name), ("--why", why)):
        if not value.strip():
            raise HoldoutError(f"The ledger wants to know: pass {option} TEXT.")
    commit = code_version()  # an opening that is not committed yet is no change
    return LedgerEntry(name.strip(), why.strip(), reason.strip(), commit or "no git")


def check_places(candidate: Candidate, entry: LedgerEntry) -> None:
    """Refuse what would stop the evaluation after the opening: the ledger, or the record's place.

    Raises
    ------
    NiveshError
        An opening would be refused, or no record can be written.
    """
    for data in candidate.datasets:
        check_opening(data.ref, model_hash=candidate.model_hash, reason=entry.reason)
    written = releases_dir() / ".writable"
    with write_errors(releases_dir()):
        releases_dir().mkdir(parents=True, exist_ok=True)
        written.touch()
        written.unlink()


def past_openings(data: Dataset) -> PastOpenings:
    """Return how often the holdout of a version was opened before."""
    known = openings()
    of_it = [opening for opening in known if opening.data == data.ref]
    of_all = sum(opening.data.startswith(f"{data.name}@") for opening in known)
    return PastOpenings(len(of_it), len({o.model_hash for o in of_it}), of_all - len(of_it))


def candidate_latency(candidate: Candidate) -> dict[str, Any]:
    """Return the latency on training queries and the reference loop beside it, as metrics.

    Empty where no objective asks for it.
    """
    if not any(objective.metric == "p95_ms" for objective in candidate.objectives):
        return {}
    queries = candidate.data.train["query"].head(200).tolist()
    measured = measure_latency(candidate.model.predict, queries, repeats=100)
    flat = measured | {"p95_ms_n": measured["n"]}
    found = {name: estimate_in(flat, name) for name in ("p95_ms", "reference_ms")}
    return {name: estimate.as_dict() for name, estimate in found.items() if estimate}


def undecided_latency(candidate: Candidate) -> Opening | None:
    """Return the last opening for this model if all it said of the latency can be said better.

    So it is where the latency is undecided, or was not met in a version that timed no reference
    loop beside it. No held-out row is needed to measure it again.
    """
    pair = candidate.data.ref, candidate.model_hash
    mine = [opening for opening in openings() if (opening.data, opening.model_hash) == pair]
    scores = mine[-1].scores if mine else None
    if scores is None:
        return None
    judged = {row["objective"]: row["status"] for row in scores.get("judgements", [])}
    asked = [str(one) for one in candidate.objectives if one.metric == "p95_ms"]
    statuses = {judged.get(objective) for objective in asked}
    open_again = {"undecided"} if "reference_ms" in scores else {"undecided", "not met"}
    return mine[-1] if statuses & open_again else None


def measure_latency_again(candidate: Candidate, opening: Opening) -> dict[str, Any]:
    """Measure the latency of a model that was judged, put it into the ledger; return the record.

    Raises
    ------
    NiveshError
        The ledger cannot be written.
    """
    latency = candidate_latency(candidate)
    fresh = {str(one.objective): one for one in judge_all(latency, candidate.objectives)}
    earlier = dict(opening.scores or {})
    judgements = [
        fresh[row["objective"]].as_dict() if row["objective"] in fresh else row
        for row in earlier["judgements"]
    ]
    judged = {"judgements": judgements, "verdict": worst(row["status"] for row in judgements)}
    record_latency(opening, {**latency, **judged})
    estimates = {name: score for name, score in earlier.items() if isinstance(score, Mapping)}
    scores = {"metrics": {**estimates, **latency}, **judged, "slices": [], "turned_away": None}
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return _record(candidate, [opening], scores) | {"latency_measured_again": now}


def evaluate_on_holdout(
    candidate: Candidate,
    entry: LedgerEntry,
    latency: Mapping[str, Any],
    *,
    in_place: TextClassifier | None = None,
) -> tuple[dict[str, Any], list[AnsweredRow]]:
    """Open the holdouts, judge, put the scores into the ledger; return the record and the answers.

    Parameters
    ----------
    in_place
        The model that is released now; the same opening shows what it answers.

    Raises
    ------
    NiveshError
        The opening was refused, or the model failed on the rows; then the opening stays recorded.
    """
    model = {"model_hash": candidate.model_hash, "model": candidate.kind}
    opened = [open_holdout(data.ref, **asdict(entry), **model) for data in candidate.datasets]
    try:
        scores, answers = _scores(candidate, opened, latency, in_place)
    except Exception as error:
        raise ModelError(
            f"{candidate.source}: the holdout was opened, then judging failed ({error!r}). The "
            "opening stays recorded; the next one for this model needs --reason"
        ) from error
    judged = {name: scores[name] for name in ("judgements", "verdict")}
    record_scores(opened[0].opening, {**scores["metrics"], **judged})
    for holdout in opened[1:]:
        record_scores(holdout.opening, scores["turned_away"])
    return _record(candidate, [holdout.opening for holdout in opened], scores), answers


def _scores(
    candidate: Candidate,
    opened: list[Holdout],
    latency: Mapping[str, Any],
    in_place: TextClassifier | None,
) -> tuple[dict[str, Any], list[AnsweredRow]]:
    held, model = opened[0].rows, candidate.model
    texts = held["query"].tolist()
    probabilities = model.predict_proba(texts)
    predicted = model.classes_[probabilities.argmax(axis=1)]
    confidence, right = probabilities.max(axis=1), predicted == held["intent"].to_numpy()
    error = calibration_error(confidence, right)
    measured = {**latency, "calibration_error": error.as_dict()}
    scores = release_scores(held, predicted, candidate.objectives, measured=measured)
    away = None
    if len(opened) > 1:
        rule, accepts = _acceptance(candidate)
        outside = opened[1].rows["query"].tolist()
        found = turned_away(
            accepts(texts, probabilities),
            accepts(outside, model.predict_proba(outside)),
            right,
        )
        away = {"rule": rule} | {name: value.as_dict() for name, value in found.items()}
    answers = answered_rows(held, model.classes_, probabilities, in_place)
    return scores | {"turned_away": away}, answers


def _acceptance(candidate: Candidate) -> tuple[str, Accepts]:
    """Return the rule in words and in code: the model's own, else the objectives' confidence."""
    own, least = getattr(candidate.model, "accepts", None), candidate.min_confidence
    if own is not None:
        return "the model's own threshold", lambda texts, _: np.asarray(own(texts), dtype=bool)
    return f"confidence below {least:g}", lambda _, proba: proba.max(axis=1) >= least


def _record(
    candidate: Candidate, opened: list[Opening], scores: Mapping[str, Any]
) -> dict[str, Any]:
    ref = candidate.data.ref
    return {
        "model": {
            "source": candidate.source,
            "kind": candidate.kind,
            "hash": candidate.model_hash,
            "trained_on": candidate.trained_on,
        },
        "dataset": ref,
        "openings": [
            {k: v for k, v in asdict(opening).items() if k != "scores"} for opening in opened
        ],
        "objectives": {
            "file": file_of(ref),
            "missing": "" if candidate.objectives else none_set(ref),
        },
        **scores,
        "environment": environment(),
    }


def write_record(record: Mapping[str, Any]) -> Path:
    """Write the record of an evaluation below ``reports/releases``, and return its path."""
    opening = record["openings"][0]
    when = record.get("latency_measured_again", opening["timestamp"])
    time = when[:19].replace("-", "").replace(":", "").replace("T", "-")
    path = releases_dir() / f"{time}_{opening['model_hash'][:8]}.json"
    if path.exists():  # the same model, opened twice in one second
        path = path.with_stem(f"{path.stem}_{opening['id'][:8]}")
    with new_file(path) as file:
        file.write(json.dumps(record, ensure_ascii=False, indent=1) + "\n")
    return path
