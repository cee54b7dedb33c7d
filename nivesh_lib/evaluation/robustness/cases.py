"""Texts that the models of the folds answer beside their rows, and are never trained on.

A table of probes has the columns ``probe`` (name of the test), ``id`` (of the row it was made
from, or its own), ``fold`` (whose model must answer, since it never saw that row; `EVERY_FOLD`
where all must) and ``query``. `cross_validate` turns it into answers: ``probe``, ``id``, ``fold``
and one probability column for each label.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from nivesh_lib import paths
from nivesh_lib.errors import DataError
from nivesh_lib.evaluation.resampling.cross_validation import EVERY_FOLD, PROBE_COLUMNS
from nivesh_lib.evaluation.robustness.perturbations import VIEWS, View, amount_spelling, perturbed
from nivesh_lib.evaluation.scores import headline_mask
from nivesh_lib.records.schema import fits

VIEW = "view: "
POLITE, CASUAL = "manner: polite", "manner: casual"
INTRODUCED = "person: introduced"
OWN_WISH = "own wish added"
TAKEN_BACK = "taken back for: "  # and the intent that is wanted instead
RULED_OUT = "ruled out: "  # and the intent that is not wanted
OUT_OF_SCOPE = "out of scope"
EN, HINGLISH = "paraphrase: en", "paraphrase: hinglish"

_POLITE = (
    "Please, {}",
    "{} please",
    "Kindly tell me: {}",
    "Sir, {}",
    "Good morning. {} Thank you.",
)
_CASUAL = ("bhai {}", "yaar {}", "arre {}", "{} batao", "{} bata do na")
# First names by community and gender; a given name of each says both plainly.
_NAMES = {
    ("Hindu", 0): ("Priya", "Sunita", "Kavita", "Pooja"),
    ("Hindu", 1): ("Rahul", "Suresh", "Amit", "Rakesh"),
    ("Muslim", 0): ("Ayesha", "Fatima", "Shabana", "Nafisa"),
    ("Muslim", 1): ("Imran", "Salman", "Arif", "Yusuf"),
    ("Christian", 0): ("Mary", "Grace", "Teresa", "Agnes"),
    ("Christian", 1): ("Joseph", "Thomas", "Francis", "Xavier"),
    ("Sikh", 0): ("Simran", "Harleen"),
    ("Sikh", 1): ("Balwinder", "Gurdeep"),
}
_OTHERS = ("Muslim", "Christian", "Sikh")
_TOWNS = ("Sitapur", "Ballia", "Rewa", "Sikar")  # towns of the Hindi belt
_FAR_TOWNS = ("Theni", "Hassan", "Tezpur", "Palakkad")  # as small, in the south and north-east
_METROS = ("Delhi", "Mumbai", "Bengaluru", "Kolkata")

_ANY_TEXT = {name: view for name, view in VIEWS.items() if name != "amount spelling"}

_SHAPE = {
    "out_of_scope?": str,
    "wishes?": {"*": str},
    "ruled_out?": {"*": str},
    "paraphrase?": [{"intent": str, "en": str, "hinglish": str}],
}


@dataclass(frozen=True, eq=False)
class ProbeTexts:
    """What people wrote to probe the models of one dataset.

    ``out_of_scope`` names a dataset or is empty; ``wishes`` and ``ruled_out`` map an intent to a
    sentence; ``paraphrases`` has the columns id, intent, en, hinglish.
    """

    out_of_scope: str = ""
    wishes: Mapping[str, str] = field(default_factory=dict)
    ruled_out: Mapping[str, str] = field(default_factory=dict)
    paraphrases: pd.DataFrame = field(
        default_factory=lambda: pd.DataFrame(columns=["id", "intent", "en", "hinglish"])
    )


def read_probe_texts(dataset: str) -> ProbeTexts:
    """Return what ``data/<name>/probes.toml`` holds; nothing where there is no such file.

    Raises
    ------
    DataError
        The file is not TOML or not of that shape.
    """
    path = paths.cases_file(dataset)
    try:
        told = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return ProbeTexts()
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}). Mend the TOML") from None
    if not fits(told, _SHAPE):
        raise DataError(
            f'{path}: write out_of_scope = "name@version", tables [wishes] and [ruled_out] of '
            "sentences, and [[paraphrase]] with intent, en and hinglish, all in quotes"
        )
    return _as_texts(told)


def _as_texts(told: Mapping[str, Any]) -> ProbeTexts:
    pairs = pd.DataFrame(told.get("paraphrase", []), columns=["intent", "en", "hinglish"])
    pairs.insert(0, "id", [f"paraphrase-{n:02d}" for n in range(1, len(pairs) + 1)])
    return ProbeTexts(
        told.get("out_of_scope", ""), told.get("wishes", {}), told.get("ruled_out", {}), pairs
    )


def standard_probes(
    frame: pd.DataFrame,
    *,
    texts: ProbeTexts | None = None,
    out_of_scope: pd.DataFrame | None = None,
    seed: int = 42,
    n: int = 200,
) -> pd.DataFrame:
    """Return the probes that every model's notebook records.

    Parameters
    ----------
    frame
        Training rows with id, query, intent and fold. At most ``n`` natural ones are drawn; each
        is written otherwise (`VIEWS`), said politely and casually, by different people, with its
        wish said outright, taken back, and with another one ruled out.
    texts
        As `read_probe_texts` returns them; without them no wishes and no paraphrases.
    out_of_scope
        Rows with id and query that belong to no label; the models of all folds answer them.
    """
    rows = sample_rows(frame, n=n, seed=seed)
    amounts = view_probes(
        frame[headline_mask(frame)], {"amount spelling": amount_spelling}, seed=seed
    )
    parts = [
        view_probes(rows, _ANY_TEXT, seed=seed),
        # Few rows name an amount, so that these are drawn from all that do.
        amounts.sample(min(n, len(amounts)), random_state=seed).sort_index(),
        manner_probes(rows, seed=seed),
        person_probes(rows, seed=seed),
    ]
    if texts is not None:
        parts += [wish_probes(rows, texts, seed=seed), _paraphrase_probes(texts)]
    if out_of_scope is not None:
        parts.append(_for_all(OUT_OF_SCOPE, out_of_scope["id"], out_of_scope["query"]))
    return pd.concat([part for part in parts if len(part)], ignore_index=True)


def sample_rows(frame: pd.DataFrame, *, n: int, seed: int) -> pd.DataFrame:
    """Return at most ``n`` random rows of those that headline scores use, in their order."""
    natural = frame[headline_mask(frame)]
    return natural.sample(min(n, len(natural)), random_state=seed).sort_index()


def view_probes(
    frame: pd.DataFrame, views: Mapping[str, View] = VIEWS, *, seed: int = 42
) -> pd.DataFrame:
    """Return each view of each row's text, where it differs from the text."""
    parts = []
    for name, view in views.items():
        probe = _of_rows(f"{VIEW}{name}", frame, perturbed(frame["query"], view, seed=seed))
        parts.append(probe[probe["query"].to_numpy() != frame["query"].to_numpy()])
    return pd.concat(parts, ignore_index=True)


def manner_probes(frame: pd.DataFrame, *, seed: int = 42) -> pd.DataFrame:
    """Return each row said politely, and said casually in Hinglish."""
    parts = []
    for which, (name, forms) in enumerate(((POLITE, _POLITE), (CASUAL, _CASUAL))):
        chosen = np.random.default_rng([seed, which]).choice(forms, size=len(frame))
        said = [form.format(text) for form, text in zip(chosen, frame["query"], strict=True)]
        parts.append(_of_rows(name, frame, said))
    return pd.concat(parts, ignore_index=True)


def person_probes(frame: pd.DataFrame, *, seed: int = 42) -> pd.DataFrame:
    """Return each row after "I am <name> from <town>", with one thing changed at a time."""
    people = [_people(np.random.default_rng([seed, n])) for n in range(len(frame))]
    parts = []
    for name in people[0] if people else ():
        said = [f"{who[name]} {text}" for who, text in zip(people, frame["query"], strict=True)]
        parts.append(_of_rows(name, frame, said))
    return pd.concat(parts, ignore_index=True) if parts else _of_rows("", frame, [])


def _people(rng: np.random.Generator) -> dict[str, str]:
    """Return how somebody introduces themselves, and people who differ in one thing."""
    gender = int(rng.integers(2))
    name, namesake = rng.permutation(_NAMES["Hindu", gender])[:2]
    town, far, metro = (rng.choice(place) for place in (_TOWNS, _FAR_TOWNS, _METROS))
    who = {
        INTRODUCED: (name, town),
        "person: another name": (namesake, town),
        "person: other gender": (rng.choice(_NAMES["Hindu", 1 - gender]), town),
        "person: other community": (rng.choice(_NAMES[rng.choice(_OTHERS), gender]), town),
        "person: other region": (name, far),
        "person: large city": (name, metro),
    }
    return {probe: f"I am {name} from {place}." for probe, (name, place) in who.items()}


def wish_probes(frame: pd.DataFrame, texts: ProbeTexts, *, seed: int = 42) -> pd.DataFrame:
    """Return each row with its own wish added, taken back for another, and another ruled out.

    The other intent is drawn for each row from those that have a sentence.
    """
    found = []
    for n, row in enumerate(frame.itertuples(index=False)):
        rng = np.random.default_rng([seed, n])
        text, own = str(row.query).rstrip(), str(row.intent)
        text += "" if text.endswith((".", "?", "!")) else "."
        if own in texts.wishes:
            found.append((OWN_WISH, row.id, row.fold, f"{text} {texts.wishes[own]}"))
        if other := _another(texts.wishes, own, rng):
            said = f"{text} No, forget that. {texts.wishes[other]}"
            found.append((f"{TAKEN_BACK}{other}", row.id, row.fold, said))
        if other := _another(texts.ruled_out, own, rng):
            said = f"{text} {texts.ruled_out[other]}"
            found.append((f"{RULED_OUT}{other}", row.id, row.fold, said))
    return pd.DataFrame(found, columns=[*PROBE_COLUMNS])


def _another(sentences: Mapping[str, str], own: str, rng: np.random.Generator) -> str:
    others = sorted(set(sentences) - {own})
    return str(rng.choice(others)) if others else ""


def _paraphrase_probes(texts: ProbeTexts) -> pd.DataFrame:
    pairs = texts.paraphrases
    parts = [_for_all(EN, pairs["id"], pairs["en"])]
    return pd.concat(
        [*parts, _for_all(HINGLISH, pairs["id"], pairs["hinglish"])], ignore_index=True
    )


def _of_rows(name: str, frame: pd.DataFrame, texts: Sequence[str]) -> pd.DataFrame:
    columns = (name, frame["id"].to_numpy(), frame["fold"].to_numpy(), texts)
    return pd.DataFrame(dict(zip(PROBE_COLUMNS, columns, strict=True)))


def _for_all(name: str, ids: pd.Series, texts: pd.Series) -> pd.DataFrame:
    columns = (name, ids.to_numpy(), EVERY_FOLD, texts.to_numpy())
    return pd.DataFrame(dict(zip(PROBE_COLUMNS, columns, strict=True)))


def answers(probes: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return the answers to one probe as an out-of-fold table: id, fold, probabilities."""
    return probes[probes["probe"] == name].drop(columns="probe").reset_index(drop=True)


def answers_by_target(probes: pd.DataFrame, prefix: str) -> pd.DataFrame:
    """Return the answers to the probes ``<prefix><label>``, with that label as ``target``."""
    rows = probes[probes["probe"].str.startswith(prefix)].reset_index(drop=True)
    return rows.assign(target=rows["probe"].str.removeprefix(prefix)).drop(columns="probe")
