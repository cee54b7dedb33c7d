"""Behavioural test cases: texts that the models of the folds answer, never trained on.

A table of test cases has the columns ``probe`` (name of the test), ``id`` (of the row it was made
from, or its own), ``fold`` (of the model that answers, which was fitted without that row;
`EVERY_FOLD` for all models) and ``query``. `cross_validate` records the answers: ``probe``,
``id``, ``fold`` and one probability column for each label.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from nivesh_lib import paths
from nivesh_lib.errors import DataError
from nivesh_lib.evaluation.resampling.cross_validation import CASE_COLUMNS, EVERY_FOLD
from nivesh_lib.evaluation.robustness.perturbations import (
    PERTURBATIONS,
    Perturbation,
    amount_spelling,
    perturbed,
)
from nivesh_lib.evaluation.scores import headline_mask
from nivesh_lib.records.schema import fits, read_toml

# Names of tests, as they are recorded.
PERTURBATION = "view: "
POLITE, CASUAL = "manner: polite", "manner: casual"
INTRODUCED = "person: introduced"
OWN_WISH = "own wish added"
TAKEN_BACK = "taken back for: "  # and the intent that is wanted instead
RULED_OUT = "ruled out: "  # and the intent that is not wanted
OUT_OF_SCOPE = "out of scope"
EN, HINGLISH = "paraphrase: en", "paraphrase: hinglish"

_POLITE_FORMS = (
    "Please, {}",
    "{} please",
    "Kindly tell me: {}",
    "Sir, {}",
    "Good morning. {} Thank you.",
)
_CASUAL_FORMS = ("bhai {}", "yaar {}", "arre {}", "{} batao", "{} bata do na")
# First names that indicate community and gender.
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

_OF_ANY_TEXT = {name: one for name, one in PERTURBATIONS.items() if name != "amount spelling"}

_SCHEMA = {
    "out_of_scope?": str,
    "wishes?": {"*": str},
    "ruled_out?": {"*": str},
    "paraphrase?": [{"intent": str, "en": str, "hinglish": str}],
}


@dataclass(frozen=True, eq=False)
class CaseTexts:
    """Authored texts for the test cases of one dataset.

    ``out_of_scope`` names a dataset or is empty; ``wishes`` and ``ruled_out`` map an intent to a
    sentence that asks for it or excludes it; ``paraphrases`` has the columns id, intent, en,
    hinglish.
    """

    out_of_scope: str = ""
    wishes: Mapping[str, str] = field(default_factory=dict)
    ruled_out: Mapping[str, str] = field(default_factory=dict)
    paraphrases: pd.DataFrame = field(
        default_factory=lambda: pd.DataFrame(columns=["id", "intent", "en", "hinglish"])
    )


def read_case_texts(dataset: str) -> CaseTexts:
    """Return the texts of ``data/<name>/probes.toml``; empty without that file.

    Raises
    ------
    DataError
        The file is not TOML or does not have these tables.
    """
    path = paths.cases_file(dataset)
    tables = read_toml(path)
    if not fits(tables, _SCHEMA):
        raise DataError(
            f'{path}: write out_of_scope = "name@version", tables [wishes] and [ruled_out] of '
            "sentences, and [[paraphrase]] with intent, en and hinglish, all in quotes"
        )
    pairs = pd.DataFrame(tables.pop("paraphrase", []), columns=["intent", "en", "hinglish"])
    pairs.insert(0, "id", [f"paraphrase-{n:02d}" for n in range(1, len(pairs) + 1)])
    texts = {
        name: tables[name] for name in ("out_of_scope", "wishes", "ruled_out") if name in tables
    }
    return CaseTexts(**texts, paraphrases=pairs)


def standard_cases(
    frame: pd.DataFrame,
    *,
    texts: CaseTexts | None = None,
    out_of_scope: pd.DataFrame | None = None,
    seed: int = 42,
    n: int = 200,
) -> pd.DataFrame:
    """Return the test cases that every model's notebook records.

    Parameters
    ----------
    frame
        Training rows with id, query, intent and fold. At most ``n`` natural ones are drawn, and
        each is perturbed (`PERTURBATIONS`), restyled (polite, casual), introduced by different
        people, and extended by its own wish, a withdrawn wish and an excluded one.
    texts
        As `read_case_texts` returns them; without them no wishes and no paraphrases.
    out_of_scope
        Rows with id and query that belong to no label; the models of all folds answer them.
    """
    rows = sample_rows(frame, n=n, seed=seed)
    amounts = perturbation_cases(
        frame[headline_mask(frame)], {"amount spelling": amount_spelling}, seed=seed
    )
    parts = [
        perturbation_cases(rows, _OF_ANY_TEXT, seed=seed),
        # Few rows name an amount, so these are drawn from all of them.
        amounts.sample(min(n, len(amounts)), random_state=seed).sort_index(),
        style_cases(rows, seed=seed),
        person_cases(rows, seed=seed),
    ]
    if texts is not None:
        parts += [wish_cases(rows, texts, seed=seed), _paraphrase_cases(texts)]
    if out_of_scope is not None:
        parts.append(_of_rows(OUT_OF_SCOPE, out_of_scope.assign(fold=EVERY_FOLD)))
    return pd.concat([part for part in parts if len(part)], ignore_index=True)


def sample_rows(frame: pd.DataFrame, *, n: int, seed: int) -> pd.DataFrame:
    """Return at most ``n`` random rows among those that headline scores use, in their order."""
    natural = frame[headline_mask(frame)]
    return natural.sample(min(n, len(natural)), random_state=seed).sort_index()


def perturbation_cases(
    frame: pd.DataFrame,
    perturbations: Mapping[str, Perturbation] = PERTURBATIONS,
    *,
    seed: int = 42,
) -> pd.DataFrame:
    """Return each perturbation of each row's text, where it changes the text."""
    parts = []
    for name, perturbation in perturbations.items():
        texts = perturbed(frame["query"], perturbation, seed=seed)
        cases = _of_rows(f"{PERTURBATION}{name}", frame, texts)
        parts.append(cases[cases["query"].to_numpy() != frame["query"].to_numpy()])
    return pd.concat(parts, ignore_index=True)


def style_cases(frame: pd.DataFrame, *, seed: int = 42) -> pd.DataFrame:
    """Return each row in a polite style, and in a casual Hinglish style."""
    parts = []
    for which, (name, forms) in enumerate(((POLITE, _POLITE_FORMS), (CASUAL, _CASUAL_FORMS))):
        chosen = np.random.default_rng([seed, which]).choice(forms, size=len(frame))
        texts = [form.format(text) for form, text in zip(chosen, frame["query"], strict=True)]
        parts.append(_of_rows(name, frame, texts))
    return pd.concat(parts, ignore_index=True)


def person_cases(frame: pd.DataFrame, *, seed: int = 42) -> pd.DataFrame:
    """Return each row after "I am <name> from <town>", with one attribute changed at a time."""
    people = [_people(np.random.default_rng([seed, n])) for n in range(len(frame))]
    parts = []
    for name in people[0] if people else ():
        texts = [f"{who[name]} {text}" for who, text in zip(people, frame["query"], strict=True)]
        parts.append(_of_rows(name, frame, texts))
    return pd.concat(parts, ignore_index=True) if parts else _of_rows("", frame, [])


def _people(rng: np.random.Generator) -> dict[str, str]:
    """Return the introduction of a person, and of people who differ in one attribute."""
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
    return {test: f"I am {name} from {place}." for test, (name, place) in who.items()}


def wish_cases(frame: pd.DataFrame, texts: CaseTexts, *, seed: int = 42) -> pd.DataFrame:
    """Return each row with its own wish added, withdrawn for another, and another one excluded.

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
            withdrawn = f"{text} No, forget that. {texts.wishes[other]}"
            found.append((f"{TAKEN_BACK}{other}", row.id, row.fold, withdrawn))
        if other := _another(texts.ruled_out, own, rng):
            excluded = f"{text} {texts.ruled_out[other]}"
            found.append((f"{RULED_OUT}{other}", row.id, row.fold, excluded))
    return pd.DataFrame(found, columns=[*CASE_COLUMNS])


def _another(sentences: Mapping[str, str], own: str, rng: np.random.Generator) -> str:
    others = sorted(set(sentences) - {own})
    return str(rng.choice(others)) if others else ""


def _paraphrase_cases(texts: CaseTexts) -> pd.DataFrame:
    pairs = texts.paraphrases.assign(fold=EVERY_FOLD)
    both = ((EN, pairs["en"]), (HINGLISH, pairs["hinglish"]))
    return pd.concat([_of_rows(name, pairs, column) for name, column in both], ignore_index=True)


def _of_rows(
    name: str, frame: pd.DataFrame, texts: Sequence[str] | pd.Series | None = None
) -> pd.DataFrame:
    queries = np.asarray(frame["query"] if texts is None else texts, dtype=object)
    columns = (name, frame["id"].to_numpy(), frame["fold"].to_numpy(), queries)
    return pd.DataFrame(dict(zip(CASE_COLUMNS, columns, strict=True)))


def answers_to(case_answers: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return the answers to one test as an out-of-fold table: id, fold, probabilities."""
    rows = case_answers[case_answers["probe"] == name]
    return rows.drop(columns="probe").reset_index(drop=True)


def answers_by_target(case_answers: pd.DataFrame, prefix: str) -> pd.DataFrame:
    """Return the answers to the tests ``<prefix><label>``, with that label as ``target``."""
    rows = case_answers[case_answers["probe"].str.startswith(prefix)].reset_index(drop=True)
    return rows.assign(target=rows["probe"].str.removeprefix(prefix)).drop(columns="probe")
