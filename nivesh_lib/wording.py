"""Names and numbers in sentences: display names, natural frequencies, differences in points."""

from __future__ import annotations

import math
from collections.abc import Iterable

from nivesh_lib.records.estimate import Estimate

# Names of models as a reader knows them, and what they are; others are shown as they are.
_MODELS = {
    "rules": ("rule set", "looks for key words of each label"),
    "tfidf": ("bag of words", "weighs words and pieces of words, whatever their order"),
    "lstm": ("LSTM", "is a small network that reads the words in their order"),
    "embedding": ("frozen encoder", "lets a pretrained network read the text, and learns the rest"),
    "transformer": ("fine-tuned transformer", "is a pretrained network, trained further here"),
    "ensemble": ("combined model", "joins the answers of several models"),
    "untuned": ("pair without fine-tuning", "joins a bag of words and a token table"),
    "static": ("token table", "adds up scores of words and pieces of words from a table"),
}

_FEW = 20  # rows; a share of fewer is said of them, not of a hundred


def model_name(name: str) -> str:
    """Return the display name of a model, such as ``bag of words`` for ``tfidf``."""
    name = name.removeprefix("optimised (").removesuffix(")")  # as notebook 07 hands it on
    return _MODELS[name][0] if name in _MODELS else shown(name)


def described(name: str) -> str:
    """Return a sentence on what a model is; an empty text for one that is not known."""
    return sentence(f"{the(name)} {_MODELS[name][1]}") if name in _MODELS else ""


def the(model: str) -> str:
    """Return the display name of a model with its article, for a sentence."""
    return f"the {model_name(model)}"


def shown(name: str) -> str:
    """Return a label or the name of a slice for readers: ``income_segment=low`` has no ``_``."""
    return str(name).replace("_", " ").replace("=", ": ").strip()


def quoted(name: str) -> str:
    """Return a label for a sentence, in quotes where it has a comma or `` and `` in it."""
    return joined([shown(name)])


def sentence(text: str) -> str:
    """Return a text that begins with a capital and ends with a full stop."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def joined(names: Iterable[str]) -> str:
    """Return ``a, b and c``; a name with a comma or `` and `` in it is put in quotes."""
    quoted = [f"“{name}”" if "," in name or " and " in name else name for name in names]
    return " and ".join([", ".join(quoted[:-1]), quoted[-1]] if quoted[1:] else quoted)


def counted(number: int, one: str, many: str = "") -> str:
    """Return a number with its noun, ``1 row`` or ``2 rows``; ``many`` where an s is not enough."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def percent(share: float) -> str:
    """Return a share as ``82 %``, with one decimal below 10 %; never a rounded 0 or 100."""
    digits = 1 if share < 0.1 or 0.995 <= share < 1 else 0
    return f"{100 * share:.{digits}f} %"


def human_bytes(size: float | None) -> str:
    """Return a size in bytes as text such as ``1.4 MB``; None is ``not measured``."""
    if size is None:
        return "not measured"
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def milliseconds(value: float | None, missing: str = "not measured") -> str:
    """Return a time in milliseconds as text such as ``1.4 ms``; None is ``missing``."""
    return missing if value is None else f"{value:.{2 if value < 1 else 1}f} ms"


def whole(value: float) -> str:
    """Return a number from 0 on without decimals; a half is rounded up, as readers do it."""
    return str(math.floor(value + 0.5 + 1e-9))


def of_100(share: Estimate, what: str = "queries") -> str:
    """Return a share as a natural frequency: ``82 of 100 queries (80 to 85)``.

    A share of very few rows is said of them, ``2 of 3 queries (21 to 94 of 100)``: a hundred would
    make it sound surer than it is.
    """
    value, low, high = (whole(100 * x) for x in (share.value, share.low, share.high))
    found = share.value * share.n
    if share.n < _FEW and abs(found - round(found)) < 1e-6:
        return f"{round(found)} of {share.n} {what} ({low} to {high} of 100)"
    return f"{value} of 100 {what} ({low} to {high})"


def interval(estimate: Estimate, *, digits: int = 2) -> str:
    """Return an estimate as ``0.83 (0.80 to 0.85)``."""
    value, low, high = (f"{x:.{digits}f}" for x in (estimate.value, estimate.low, estimate.high))
    return f"{value} ({low} to {high})"


def points(difference: Estimate) -> str:
    """Return a difference of shares in percentage points: ``+3.1 (1.2 to 5.2)``."""
    value, low, high = (100 * x for x in (difference.value, difference.low, difference.high))
    return f"{signed(value)} ({signed(low)} to {signed(high)})"


def would_show(least: Iterable[float], gap: str = "gap") -> str:
    """Return below which size any gap is likely to be missed, to end a claim that none is shown.

    Parameters
    ----------
    least
        The smallest gap of each comparison that is found four times out of five, as shares of 1;
        NaN where none is.
    """
    ends = sorted({f"{100 * one:.0f}" for one in least}, key=float)
    if not ends or "nan" in ends:
        missed = f"; even the largest {gap} would be missed more than one time in five"
        return missed if ends else ""
    return f"; a {gap} below {ends[0]} points would be missed more than one time in five"


def signed(value: float) -> str:
    """Return a change with its sign and one decimal; zero has none."""
    rounded = f"{value:+.1f}"
    return "0.0" if float(rounded) == 0 else rounded
