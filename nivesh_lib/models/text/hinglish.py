"""English glosses for words of Hindi in Latin letters, for encoders that never read any.

``hinglish.tsv`` lists forms with their gloss: ``sure`` ones are no words of English, ``mixed`` ones
are ("main", "do", "par") and are read as Hindi only beside sure ones. Word order stays; to an
encoder of English, "meri salary from how much save should" is far nearer to what was meant.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

# The letters that [a-z] takes with IGNORECASE; spelt out, the search is twice as fast.
_WORD = re.compile(r"[a-zA-Z\u0130\u0131\u017f\u212a]+")
_ENOUGH = 2  # sure words of a text, from which its mixed ones are Hindi too


@cache
def glossary() -> tuple[dict[str, str], dict[str, str]]:
    """Return form -> gloss of the sure and of the mixed words."""
    kinds: dict[str, dict[str, str]] = {"sure": {}, "mixed": {}}
    lines = files("nivesh_lib.models.text").joinpath("hinglish.tsv").read_text(encoding="utf-8")
    for line in lines.splitlines()[1:]:
        form, gloss, kind = line.split("\t")
        kinds[kind][form] = gloss
    return kinds["sure"], kinds["mixed"]


@cache
def _both() -> dict[str, str]:
    sure, mixed = glossary()
    return sure | mixed


def glossed(text: str) -> str:
    """Return the text with its Hindi words in English, the rest as it is.

    Examples
    --------
    >>> glossed("salary se kitna bachana chahiye")
    'salary from how much save should'
    >>> glossed("the main plan")
    'the main plan'
    """
    sure, _ = glossary()
    found = sum(map(sure.__contains__, map(str.lower, _WORD.findall(text))))
    if not found:
        return text
    known = _both() if found >= _ENOUGH else sure
    return _WORD.sub(lambda match: known.get(match[0].lower(), match[0]), text)


def extended(text: str) -> str:
    """Return the text, followed by its reading in English where that is another one."""
    english = glossed(text)
    return text if english == text else f"{text} {english}"
