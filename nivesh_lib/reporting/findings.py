"""How a finding is shown in a notebook: claim, figure, table, examples, caveats."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from nivesh_lib.records.finding import Finding
from nivesh_lib.reporting.markup import plain_links

if TYPE_CHECKING:
    import pandas as pd

SIGNS = {"met": "✔ Met", "not met": "✘ Not met", "undecided": "~ Undecided", "": "Not judged"}


def show_finding(finding: Finding) -> None:
    """Display a finding as outputs of a cell; what is text is the same for the same values."""
    import pandas as pd
    from IPython.display import display

    from nivesh_lib.reporting.figures import figure_of

    show_markdown(_headline(finding))
    if finding.plot is not None:
        display(figure_of(finding), metadata={"image/png": {"alt": finding.plot.alt}})
    if finding.cells:
        with pd.option_context("display.max_colwidth", None, "display.max_columns", None):
            display(shown_table(finding))
    for text in (_examples(finding), _caveats(finding)):
        if text:
            show_markdown(text)


def show_markdown(text: str) -> None:
    """Display Markdown whose plain form, which notebooks are compared by, is the text itself."""
    from IPython.display import display

    display({"text/markdown": text, "text/plain": text}, raw=True)


def show_in_notebooks() -> None:
    """Let Jupyter show a finding that a cell ends with; nothing happens outside of it."""
    from IPython import get_ipython

    shell = get_ipython()
    if shell is not None:
        shell.display_formatter.ipython_display_formatter.for_type(Finding, show_finding)


def shown_table(finding: Finding) -> pd.DataFrame:
    """Return the table for readers: two decimals, an interval in the cell of its value."""
    import pandas as pd

    raw = finding.table
    shown: dict[str, pd.Series] = {}
    ends: set[str] = set()  # in the cell of their value
    for name in raw.columns:
        low, high = ("low", "high") if name == "value" else (f"{name}_low", f"{name}_high")
        column = raw[name].map(_rounded)
        if {low, high} <= set(raw.columns):
            interval = " [" + raw[low].map(_rounded) + ", " + raw[high].map(_rounded) + "]"
            column += interval.where(raw[low].notna(), "")
            ends |= {low, high}
        shown[str(name)] = column
    table = pd.DataFrame({n.replace("_", " "): c for n, c in shown.items() if n not in ends})
    return table.set_index(table.columns[0]) if len(table.columns) else table


def _rounded(cell: Any) -> str:
    if cell is None or cell != cell:
        return ""
    if isinstance(cell, float):
        half_up = math.copysign(math.floor(100 * abs(cell) + 0.5 + 1e-9) / 100, cell)
        text = f"{half_up:,.2f}"  # a half goes up, as in sentences
        return text if float(text.replace(",", "")) else "0.00"  # no -0.00
    return f"{cell:,}" if isinstance(cell, int) and not isinstance(cell, bool) else str(cell)


def _headline(finding: Finding) -> str:
    claim = f"**{plain_links(finding.claim)}**"
    if not finding.mark:
        return claim
    return f"{claim}\n\nMark: {plain_links(finding.mark)}. {SIGNS[finding.verdict]}."


def _examples(finding: Finding) -> str:
    lines = (f"“{one.query}”" + (f" ({one.note})" if one.note else "") for one in finding.examples)
    return "\n".join(f"- {plain_links(line)}" for line in lines)


def _caveats(finding: Finding) -> str:
    return " ".join(f"*{plain_links(caveat)}*" for caveat in finding.caveats)
