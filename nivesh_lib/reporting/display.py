"""Formatting for readers: Markdown in a notebook, percentages, sizes, times."""

from __future__ import annotations

from nivesh_lib.reporting.markup import plain_links


def say(markdown: str) -> None:
    """Display Markdown as the output of a cell.

    HTML and links in it are shown as they are written: labels and issues come from users' files.
    """
    from IPython.display import Markdown, display

    display(Markdown(plain_links(markdown)))


def percent(share: float) -> str:
    """Return a share of 1 as a percentage, with one decimal below 10 %."""
    return f"{100 * share:.1f} %" if share < 0.1 else f"{100 * share:.0f} %"


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
