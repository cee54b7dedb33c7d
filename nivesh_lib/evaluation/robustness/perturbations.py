"""The same question written another way: views of a text that keep what it asks.

Each is a function of a text and a random generator; a model should answer a view as it answers
the text (invariance tests, Ribeiro et al. 2020). ``shuffled_words`` is the exception: it takes the
order away and shows how much of an answer rested on it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from decimal import Decimal

import numpy as np

View = Callable[[str, np.random.Generator], str]

_AMOUNT = re.compile(
    r"(?:(?P<sign>₹|\brs\.?|\binr)\s*)?(?P<number>\d+(?:,\d+)*(?:\.\d+)?)\s*"
    r"(?P<unit>lakhs?|lacs?|crores?|cr|l|k)?(?!\w)(?!\s*%)",
    re.IGNORECASE,
)
_UNITS = {"l": 5, "lakh": 5, "lac": 5, "crore": 7, "cr": 7, "k": 3}
_NEIGHBOURS = dict(
    zip(
        "abcdefghijklmnopqrstuvwxyz",
        [
            "s",
            "v",
            "x",
            "s",
            "w",
            "d",
            "f",
            "g",
            "u",
            "h",
            "j",
            "k",
            "n",
            "b",
            "i",
            "o",
            "w",
            "e",
            "a",
            "r",
            "y",
            "b",
            "e",
            "z",
            "t",
            "x",
        ],
        strict=True,
    )
)


def upper_case(text: str, rng: np.random.Generator) -> str:
    """Shout."""
    return text.upper()


def no_punctuation(text: str, rng: np.random.Generator) -> str:
    """Leave out marks at the ends of words; amounts and percentages keep theirs."""
    return " ".join(re.sub(r"(?<!\d)[.,;:!?\"'()]+(?=\s|$)", "", text).split())


def typos(text: str, rng: np.random.Generator) -> str:
    """Make one slip of the thumb in every fifth word of five letters or more, and at least one."""
    words = text.split(" ")
    long = [n for n, word in enumerate(words) if len(word) >= 5 and word.isalpha()]
    for n in rng.permutation(long)[: max(1, len(long) // 5)]:
        words[n] = _slip(words[n], rng)
    return " ".join(words)


def _slip(word: str, rng: np.random.Generator) -> str:
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
    """Write every amount of money in another of its Indian spellings."""
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


VIEWS: dict[str, View] = {
    "upper case": upper_case,
    "no punctuation": no_punctuation,
    "typos": typos,
    "amount spelling": amount_spelling,
}


def perturbed(texts: Iterable[str], view: View, seed: int = 42) -> list[str]:
    """Return the view of each text; a text's view depends on its place and the seed alone."""
    return [view(text, np.random.default_rng([seed, n])) for n, text in enumerate(texts)]
