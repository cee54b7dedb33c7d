"""Values as people read them: Markdown in a notebook, percentages, sizes, times."""

from __future__ import annotations

import html


def say(markdown: str) -> None:
    """Show Markdown as the output of a cell: prose whose digits come from values.

    HTML in it is shown as text: labels and issues come from people's files.
    """
    from IPython.display import Markdown, display

    display(Markdown(html.escape(markdown, quote=False)))


def percent(share: float) -> str:
    """Return a share as a percentage without needless digits."""
    return f"{100 * share:.1f} %" if share < 0.1 else f"{100 * share:.0f} %"


def human_bytes(size: float | None) -> str:
    """Return a size such as ``1.4 MB``."""
    if size is None:
        return "not measured"
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def milliseconds(value: float | None, missing: str = "not measured") -> str:
    """Return a time such as ``1.4 ms``, or ``missing``."""
    return missing if value is None else f"{value:.1f} ms"
