"""Text from files on a terminal: labels, names and messages may hold characters that command it."""

from __future__ import annotations

import re
from collections.abc import Iterable

# Controls, line separators, half surrogate pairs, and what is invisible or turns the direction of
# writing; not the two joiners, which Indian scripts and emoji are written with.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


def printable(text: object) -> str:
    r"""Return text on one line that a terminal only shows, each other character as ``\x1b``.

    Examples
    --------
    >>> print(printable("a\nb"))
    a\nb
    """
    return _UNSAFE.sub(lambda found: ascii(found[0])[1:-1], str(text))


def printable_lines(text: str) -> str:
    """Return text as `printable` does, with the line breaks that it has."""
    return "\n".join(map(printable, text.split("\n")))


def listed(names: Iterable[object], none: str = "none") -> str:
    """Return names in one line for a message: ``a, b, c``."""
    return ", ".join(map(printable, names)) or none
