"""Names and numbers in sentences: display names, natural frequencies, differences in points."""

from __future__ import annotations

from collections.abc import Iterable

from nivesh_lib.records.estimate import Estimate

# Names of models as a reader knows them, and what they are; others are shown as they are.
_MODELS = {
    "rules": ("rule set", "looks for key words of each label"),
    "tfidf": ("bag of words", "weighs words and pieces of words, whatever their order"),
    "lstm": ("LSTM", "is a small network that reads the words in their order"),
    "embedding": ("frozen encoder", "lets a pretrained network read the text, and learns the rest"),
    "transformer": ("fine-tuned transformer", "is a pretrained network, trained further here"),
    "ensemble": ("combined model", "averages the answers of several models"),
    "static": ("token table", "adds up scores of words and pieces of words from a table"),
}


def model_name(name: str) -> str:
    """Return the display name of a model, such as ``bag of words`` for ``tfidf``."""
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


def sentence(text: str) -> str:
    """Return a text that begins with a capital and ends with a full stop."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def joined(names: Iterable[str]) -> str:
    """Return ``a, b and c``; a name with a comma or `` and `` in it is put in quotes."""
    quoted = [f"“{name}”" if "," in name or " and " in name else name for name in names]
    return " and ".join([", ".join(quoted[:-1]), quoted[-1]] if quoted[1:] else quoted)


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
    return missing if value is None else f"{value:.1f} ms"


def of_100(share: Estimate, what: str = "queries") -> str:
    """Return a share as a natural frequency: ``82 of 100 queries (80 to 85)``."""
    value, low, high = (f"{100 * x:.0f}" for x in (share.value, share.low, share.high))
    return f"{value} of 100 {what} ({low} to {high})"


def interval(estimate: Estimate, *, digits: int = 2) -> str:
    """Return an estimate as ``0.83 (0.80 to 0.85)``."""
    value, low, high = (f"{x:.{digits}f}" for x in (estimate.value, estimate.low, estimate.high))
    return f"{value} ({low} to {high})"


def points(difference: Estimate) -> str:
    """Return a difference of shares in percentage points: ``+3.1 (1.2 to 5.2)``."""
    value, low, high = (100 * x for x in (difference.value, difference.low, difference.high))
    return f"{signed(value)} ({signed(low)} to {signed(high)})"


def unseen(differences: Iterable[float]) -> str:
    """Return how small a difference would stay unseen, to end a claim that none is shown.

    Parameters
    ----------
    differences
        The smallest that each comparison detects, as shares of 1; NaN where none would be.
    """
    least = [100 * one for one in differences]
    if not least:
        return ""
    if any(one != one for one in least):
        return "; so few rows would show none"
    low, high = f"{min(least):.0f}", f"{max(least):.0f}"
    ends = low if low == high else f"{low} to {high}"
    return f"; a gap below {ends} points would stay unseen"


def signed(value: float) -> str:
    """Return a change with its sign and one decimal; zero has none."""
    rounded = f"{value:+.1f}"
    return "0.0" if float(rounded) == 0 else rounded
