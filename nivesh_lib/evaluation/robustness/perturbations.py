"""Perturbations of a text that keep its intent.

Each is a function of a text and a random generator; a model should predict the same label for the
perturbed text (invariance tests, Ribeiro et al. 2020). ``shuffled_words`` is the exception: it
shows how much a prediction depends on word order.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from decimal import Decimal

import numpy as np

Perturbation = Callable[[str, np.random.Generator], str]

_AMOUNT = re.compile(
    r"(?:(?P<sign>₹|\brs\.?|\binr)\s*)?(?P<number>\d+(?:,\d+)*(?:\.\d+)?)\s*"
    r"(?P<unit>lakhs?|lacs?|crores?|cr|l|k)?(?!\w)(?!\s*%)",
    re.IGNORECASE,
)
_UNITS = {"l": 5, "lakh": 5, "lac": 5, "crore": 7, "cr": 7, "k": 3}
# A neighbour of each key.
_NEIGHBOURS = dict(zip("abcdefghijklmnopqrstuvwxyz", "svxswdfguhjknbiowearybeztx", strict=True))


def upper_case(text: str, rng: np.random.Generator) -> str:
    """Convert to upper case."""
    return text.upper()


def no_punctuation(text: str, rng: np.random.Generator) -> str:
    """Remove punctuation at the ends of words, but not in amounts and percentages."""
    return " ".join(re.sub(r"(?<!\d)[.,;:!?\"'()]+(?=\s|$)", "", text).split())


def typos(text: str, rng: np.random.Generator) -> str:
    """Make one typo in every fifth word of five letters or more, and at least one."""
    words = text.split(" ")
    long = [n for n, word in enumerate(words) if len(word) >= 5 and word.isalpha()]
    for n in rng.permutation(long)[: max(1, len(long) // 5)]:
        words[n] = _typo(words[n], rng)
    return " ".join(words)


def _typo(word: str, rng: np.random.Generator) -> str:
    """Drop, double, swap or mistype one letter, never the first."""
    at = int(rng.integers(1, len(word) - 1))
    before, here, after = word[:at], word[at], word[at + 1 :]
    choice = rng.integers(4)
    if choice == 0:
        return before + after
    if choice == 1:
        return before + here * 2 + after
    if choice == 2:
        return before + after[:1] + here + after[1:]
    return before + _NEIGHBOURS.get(here.lower(), here) + after


def amount_spelling(text: str, rng: np.random.Generator) -> str:
    """Rewrite every amount of money in another Indian spelling."""
    return _AMOUNT.sub(lambda match: _respell(match, rng), text)


def _respell(match: re.Match[str], rng: np.random.Generator) -> str:
    sign, unit = match["sign"], (match["unit"] or "").lower().rstrip("s")
    if not sign and not unit:  # a year, an age, a section of the law
        return match[0]
    rupees = Decimal(match["number"].replace(",", "")) * 10 ** _UNITS.get(unit, 0)
    spellings = [s for s in _spellings(rupees) if s.lower() != match[0].lower()]
    return str(rng.choice(spellings))


def _spellings(rupees: Decimal) -> list[str]:
    whole = f"{rupees:f}".rstrip("0").rstrip(".") if "." in f"{rupees:f}" else f"{rupees:f}"
    found = [f"₹{_indian(whole)}", f"Rs {whole}", f"{whole} rupees"]
    for size, names in ((7, ("cr", "crore")), (5, ("L", "lakh")), (3, ("k", "thousand"))):
        if rupees >= 10**size:
            short = f"{(rupees / 10**size).normalize():f}"
            if len(short) <= 5:
                found += [f"₹{short}{names[0]}", f"{short} {names[1]}"]
            break
    return found


def _indian(whole: str) -> str:
    """Group digits as 12,34,567."""
    head, dot, tail = whole.partition(".")
    last, rest = head[-3:], head[:-3]
    groups = [rest[max(0, n - 2) : n] for n in range(len(rest), 0, -2)][::-1]
    return ",".join([*groups, last]) + dot + tail


def shuffled_words(text: str, rng: np.random.Generator) -> str:
    """Put the words in random order."""
    return " ".join(rng.permutation(text.split()).tolist())


PERTURBATIONS: dict[str, Perturbation] = {
    "upper case": upper_case,
    "no punctuation": no_punctuation,
    "typos": typos,
    "amount spelling": amount_spelling,
}


def perturbed(texts: Iterable[str], perturbation: Perturbation, seed: int = 42) -> list[str]:
    """Return each text perturbed; its random generator depends on position and seed alone."""
    return [perturbation(text, np.random.default_rng([seed, n])) for n, text in enumerate(texts)]
