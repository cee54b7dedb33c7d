"""English glosses of romanised Hindi words, for encoders trained on English only.

``hinglish.tsv`` lists word forms with gloss and kind: ``sure`` forms are no English words,
``mixed`` forms are ("main", "do", "par") and are replaced only beside sure ones. Word order is
kept: to an English encoder, "meri salary from how much save should" is much closer to the meaning.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

# What [a-z] matches with IGNORECASE; listing it makes the search twice as fast.
_WORD = re.compile(r"[a-zA-Z\u0130\u0131\u017f\u212a]+")
_MIN_SURE = 2  # sure words in a text from which on its mixed words count as Hindi


@cache
def glossary() -> tuple[dict[str, str], dict[str, str]]:
    """Return the glosses, form -> gloss, of the sure and of all forms."""
    kinds: dict[str, dict[str, str]] = {"sure": {}, "mixed": {}}
    lines = files("nivesh_lib.models.text").joinpath("hinglish.tsv").read_text(encoding="utf-8")
    for line in lines.splitlines()[1:]:
        form, gloss, kind = line.split("\t")
        kinds[kind][form] = gloss
    return kinds["sure"], kinds["sure"] | kinds["mixed"]


def glossed(text: str) -> str:
    """Return the text with its Hindi words replaced by English glosses.

    Examples
    --------
    >>> glossed("salary se kitna bachana chahiye")
    'salary from how much save should'
    >>> glossed("the main plan")
    'the main plan'
    """
    (sure, every), n_sure = glossary(), _n_sure(text)
    if not n_sure:
        return text
    glosses = every if n_sure >= _MIN_SURE else sure
    return _WORD.sub(lambda match: glosses.get(match[0].lower(), match[0]), text)


def is_hinglish(text: str) -> bool:
    """Return whether a text has enough words that are Hindi for sure.

    Examples
    --------
    >>> is_hinglish("salary se kitna bachana chahiye"), is_hinglish("the main plan")
    (True, False)
    """
    return _n_sure(text) >= _MIN_SURE


def _n_sure(text: str) -> int:
    return sum(map(glossary()[0].__contains__, map(str.lower, _WORD.findall(text))))


def extended(text: str) -> str:
    """Return the text followed by its glossed form, where that differs."""
    english = glossed(text)
    return text if english == text else f"{text} {english}"
