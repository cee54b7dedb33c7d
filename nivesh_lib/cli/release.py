"""The command ``nivesh release``: a model judged on rows that nobody has looked at.

The only caller of ``open_holdout``. Everything that can fail without the rows is tried before
they are opened.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nivesh_lib.cli.predict import model_directory, named

if TYPE_CHECKING:
    import numpy as np

    from nivesh_lib.data.holdout import Holdout
    from nivesh_lib.data.versions import Dataset
    from nivesh_lib.evaluation.objectives import Objective
    from nivesh_lib.models.base import TextClassifier

    Accepts = Callable[[list[str], np.ndarray], np.ndarray]

Say = Callable[[str], None]

_NOT_YET = (
    "Registering and promoting a model are not built yet. To judge one on the holdout: "
    "nivesh release --evaluate-only"
)
_MEANING = (
    "The opening is recorded in {ledger} for good. Every further look at held-out rows makes "
    "their scores a little less honest: open them for a model that is to be released, not to "
    "choose between models."
)
_MARKS = {"met": "✔", "not met": "✘", "undecided": "~"}


@dataclass(frozen=True)
class Candidate:
    """A model that answers, and the data it is to be judged on."""

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
    def refs(self) -> list[str]:
        """Return the data versions whose holdouts are opened."""
        return [data.ref for data in (self.data, self.out_of_scope) if data is not None]


@dataclass(frozen=True)
class Entry:
    """Who opens the holdout, why, and with which code."""

    who: str
    why: str
    reason: str
    commit: str


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
    say: Say = functools.partial(typer.echo, err=as_json)
    candidate = _candidate(model, dataset)
    entry = _entry(who, why, reason, say)
    _check_places(candidate, entry)
    _tell(candidate, say)
    _confirm(yes)
    latency = _latency(candidate)
    record = _judged(candidate, entry, latency)
    path = _write(record)
    _tell_verdict(record, say)
    _tell_where(path, say)
    if as_json:
        typer.echo(json.dumps(record, ensure_ascii=False, indent=1))


# --- before the rows are opened ----------------------------------------------------------------


def _candidate(model: str | None, dataset: str | None) -> Candidate:
    from nivesh_lib.data.versions import load_dataset
    from nivesh_lib.errors import ModelError
    from nivesh_lib.evaluation.objectives import objectives_for, values_for
    from nivesh_lib.models.base import load_with_card, model_hash
    from nivesh_lib.paths import relative

    folder = model_directory(model)
    try:
        loaded, card = load_with_card(folder)
    except ModelError as error:
        raise named(error, model) from error
    source, trained_on = model or relative(folder), str(card["data"])
    ref = dataset or trained_on
    if not ref:
        raise ModelError(f"{source}: does not say what it was trained on; add --dataset")
    _refuse_drafts(source, (ref, trained_on))
    data = load_dataset(ref)  # verifies the file, and returns no held-out row
    _check_labels(source, loaded, data)
    least = values_for(data.name).get("min_confidence")
    can_refuse = hasattr(loaded, "accepts") or least is not None
    return Candidate(
        source=source,
        kind=str(card["kind"]),
        model_hash=model_hash(card),
        trained_on=trained_on,
        model=loaded,
        data=data,
        out_of_scope=_out_of_scope(data.name) if can_refuse else None,
        objectives=objectives_for("", dataset=data.ref),
        min_confidence=least,
    )


def _refuse_drafts(source: str, refs: tuple[str, ...]) -> None:
    from nivesh_lib.data.versions import parse_ref
    from nivesh_lib.errors import DataError

    for ref in filter(None, refs):
        if (parse_ref(ref)[1] or "").startswith("0."):
            raise DataError(
                f"{ref} is a draft: it may be replaced, and a row held out now may have been "
                f"trained on. Publish it as 1.0.0 and train {source} on that."
            )


def _check_labels(source: str, model: TextClassifier, data: Dataset) -> None:
    from nivesh_lib.errors import ModelError

    known, wanted = set(map(str, model.classes_)), set(data.labels)
    if known != wanted:
        odd = ", ".join(map(repr, sorted(known ^ wanted)[:5]))
        raise ModelError(
            f"{source}: its classes are not the labels of {data.ref} (only one of them has {odd}). "
            "Name the data it was trained on with --dataset, or train it on this version"
        )


def _out_of_scope(name: str) -> Dataset | None:
    """Return the assistant's out-of-scope set; what is out of scope elsewhere is not known."""
    from nivesh_lib.data.versions import load_dataset
    from nivesh_lib.paths import data_dir

    if name != "intents" or not (data_dir() / "out_of_scope").is_dir():
        return None
    data = load_dataset("out_of_scope")
    return data if data.manifest["holdout"] else None


def _entry(who: str | None, why: str, reason: str, say: Say) -> Entry:
    from nivesh_lib.errors import HoldoutError
    from nivesh_lib.ledger import ledger_path
    from nivesh_lib.reproducibility import author, code_version

    name = author() if who is None else who
    for option, value in (("--who", name), ("--why", why)):
        if not value.strip():
            raise HoldoutError(f"The ledger wants to know: pass {option} TEXT.")
    commit = code_version(ledger_path())  # an opening that is not committed yet is no change
    if not commit:
        say("warning: no git commit here, so the ledger cannot say which code this is")
    elif commit.endswith("-dirty"):
        say("warning: there are uncommitted changes; the commit is recorded as dirty")
    return Entry(name.strip(), why.strip(), reason.strip(), commit or "no git")


def _check_places(candidate: Candidate, entry: Entry) -> None:
    """Refuse what would stop this after the opening: the ledger, or where the record goes."""
    from nivesh_lib.data.holdout import check_opening
    from nivesh_lib.paths import releases_dir

    for ref in candidate.refs:
        check_opening(ref, model_hash=candidate.model_hash, reason=entry.reason)
    releases_dir().mkdir(parents=True, exist_ok=True)
    probe = releases_dir() / ".writable"
    probe.touch()
    probe.unlink()


def _tell(candidate: Candidate, say: Say) -> None:
    from nivesh_lib.ledger import ledger_path, openings
    from nivesh_lib.paths import relative

    trained = candidate.trained_on or "unknown data"
    say(
        f"model    {candidate.source} ({candidate.kind}, {candidate.model_hash[:8]}), "
        f"trained on {trained}"
    )
    if trained.partition("@")[0] != candidate.data.name:
        say("warning: whether it was trained on some of the held-out rows is not known")
    known = openings()
    for data in filter(None, (candidate.data, candidate.out_of_scope)):
        of_it = [o for o in known if o.data == data.ref]
        models = len({o.model_hash for o in of_it})
        others = sum(o.data.startswith(f"{data.name}@") for o in known) - len(of_it)
        say(
            f"holdout  {data.ref}, {len(data.manifest['holdout']):,} rows, opened "
            + (f"{_times(len(of_it))} before, for {_models(models)}" if of_it else "never before")
            + (f"; other versions of {data.name} {_times(others)}" if others else "")
        )
    say(_MEANING.format(ledger=relative(ledger_path())))


def _times(n: int) -> str:
    return f"{n} time{'s' * (n != 1)}"


def _models(n: int) -> str:
    return f"{n} model{'s' * (n != 1)}"


def _latency(candidate: Candidate) -> dict[str, Any]:
    """Time training queries, where an objective asks for it."""
    from nivesh_lib.evaluation.benchmark import measure_latency

    if not any(objective.metric == "p95_ms" for objective in candidate.objectives):
        return {}
    queries = candidate.data.train["query"].head(200).tolist()
    told = measure_latency(candidate.model.predict, queries, repeats=100)
    return {"p95_ms": {"value": float(told["p95_ms"]), "n": int(told["n"])}}


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


# --- with the rows -----------------------------------------------------------------------------


def _judged(candidate: Candidate, entry: Entry, latency: dict[str, Any]) -> dict[str, Any]:
    """Open the holdouts, judge, put the scores into the ledger; return the record."""
    from nivesh_lib.data.holdout import open_holdout, record_scores
    from nivesh_lib.errors import ModelError

    opened = [
        open_holdout(ref, **asdict(entry), model_hash=candidate.model_hash, model=candidate.kind)
        for ref in candidate.refs
    ]
    try:
        told = _scores(candidate, opened, latency)
    except Exception as error:
        raise ModelError(
            f"{candidate.source}: the holdout was opened, then judging failed ({error!r}). The "
            "opening stays recorded; the next one for this model needs --reason"
        ) from error
    record_scores(opened[0].opening, _for_ledger(told))
    for holdout in opened[1:]:
        record_scores(holdout.opening, told["turned_away"])
    return _record(candidate, opened, told)


def _scores(candidate: Candidate, opened: list[Holdout], latency: dict[str, Any]) -> dict[str, Any]:
    from nivesh_lib.evaluation.summary import release_scores, turned_away

    held, model = opened[0].rows, candidate.model
    texts = held["query"].tolist()
    probabilities = model.predict_proba(texts)
    predicted = model.classes_[probabilities.argmax(axis=1)]
    told = release_scores(held, predicted, candidate.objectives, measured=latency)
    away = None
    if len(opened) > 1:
        rule, accepts = _acceptance(candidate)
        strange = opened[1].rows["query"].tolist()
        found = turned_away(
            accepts(texts, probabilities),
            accepts(strange, model.predict_proba(strange)),
            (predicted == held["intent"].to_numpy()),
        )
        away = {"rule": rule} | {name: value.as_dict() for name, value in found.items()}
    return told | {"turned_away": away}


def _acceptance(candidate: Candidate) -> tuple[str, Accepts]:
    """Return which queries are answered: as the model says, else by the objectives' confidence."""
    import numpy as np

    own, least = getattr(candidate.model, "accepts", None), candidate.min_confidence
    if own is not None:
        return "the model's own threshold", lambda texts, _: np.asarray(own(texts), dtype=bool)
    return f"confidence below {least:g}", lambda _, proba: proba.max(axis=1) >= least


def _for_ledger(told: Mapping[str, Any]) -> dict[str, Any]:
    return {**told["metrics"], **{name: told[name] for name in ("judgements", "verdict")}}


def _record(candidate: Candidate, opened: list[Holdout], told: Mapping[str, Any]) -> dict[str, Any]:
    from nivesh_lib.evaluation.objectives import file_of, none_set
    from nivesh_lib.reproducibility import environment

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
            {k: v for k, v in asdict(holdout.opening).items() if k != "scores"}
            for holdout in opened
        ],
        "objectives": {
            "file": file_of(ref),
            "missing": "" if candidate.objectives else none_set(ref),
        },
        **told,
        "environment": environment(),
    }


def _write(record: Mapping[str, Any]) -> Path:
    from nivesh_lib.files import new_file
    from nivesh_lib.paths import releases_dir

    opening = record["openings"][0]
    time = opening["timestamp"][:19].replace("-", "").replace(":", "").replace("T", "-")
    path = releases_dir() / f"{time}_{opening['model_hash'][:8]}.json"
    if path.exists():  # the same model, opened twice in one second
        path = path.with_stem(f"{path.stem}_{opening['id'][:8]}")
    with new_file(path) as file:
        file.write(json.dumps(record, ensure_ascii=False, indent=1) + "\n")
    return path


# --- what a person reads -----------------------------------------------------------------------


def _tell_verdict(record: Mapping[str, Any], say: Say) -> None:
    metrics = record["metrics"]
    say("")
    for name, key in (("accuracy", "accuracy"), ("macro-F1", "macro_f1")):
        say(f"{name:<9}{_shown(metrics[key])} on {metrics[key]['n']:,} held-out queries")
    for row in record["slices"]:
        accuracy = {end: row[f"accuracy{end}"] for end in ("", "_low", "_high")}
        say(
            f"         {row['slice']:<32}{row['rows']:>6,} rows  accuracy {accuracy['']:.3f} "
            f"[{accuracy['_low']:.3f}, {accuracy['_high']:.3f}]"
        )
    if away := record["turned_away"]:
        say(
            f"Turned away, by {away['rule']}: {_shown(away['out_of_scope'])} of "
            f"{away['out_of_scope']['n']:,} out-of-scope queries, {_shown(away['in_scope'])} of "
            "those in scope"
        )
    for judged in record["judgements"]:
        mark = _MARKS[judged["status"]]
        say(f"{mark} {judged['status']}: {judged['objective']} (found {judged['found']})")
    say(_sentence(record))


def _shown(estimate: Mapping[str, Any]) -> str:
    return f"{estimate['value']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"


def _sentence(record: Mapping[str, Any]) -> str:
    return {
        "met": "Verdict: every objective is met on rows that were held out.",
        "undecided": "Verdict: undecided; more held-out rows would decide.",
        "not met": "Verdict: not met. It is not ready for release.",
    }.get(record["verdict"], f"Verdict: none. {record['objectives']['missing']}")


def _tell_where(path: Path, say: Say) -> None:
    from nivesh_lib.ledger import ledger_path
    from nivesh_lib.paths import relative

    say(f"Recorded in {relative(path)} and {relative(ledger_path())}; commit the ledger.")
