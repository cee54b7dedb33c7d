"""The figures that several findings have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from nivesh_lib.records.estimate import Estimate
from nivesh_lib.records.finding import Plot
from nivesh_lib.wording import points, shown


def intervals(estimates: Mapping[str, Estimate], unit: str, **data: Any) -> Plot:
    """Return the plot of named estimates with their intervals, and of ``data`` such as targets."""
    alt = "; ".join(f"{name}: {one}" for name, one in estimates.items())
    return Plot(kind="intervals", data={"estimates": estimates, "unit": unit, **data}, alt=alt)


def differences(estimates: Mapping[str, Estimate], unit: str, **data: Any) -> Plot:
    """Return the plot of named differences of shares, in points, and of ``data`` such as a margin.

    Parameters
    ----------
    unit
        Begins with ``points``.
    """
    alt = "; ".join(f"{name}: {points(one)} points" for name, one in estimates.items())
    return Plot(kind="differences", data={"differences": estimates, "unit": unit, **data}, alt=alt)


def bars(counts: Mapping[str, int], unit: str, *, kind: str = "bars") -> Plot:
    """Return the plot of named counts of ``unit``; months (``kind``) keep their order."""
    alt = "; ".join(f"{shown(name)} {n}" for name, n in counts.items()) + "."
    return Plot(kind=kind, data={"counts": counts, "unit": unit}, alt=alt)


def lengths(words: Mapping[str, pd.Series]) -> Plot:
    """Return the histogram of the number of words of queries, for each named group."""
    means = ", ".join(f"{name} {of.mean():.1f}" for name, of in words.items())
    counts = {name: of.value_counts().sort_index().to_dict() for name, of in words.items()}
    return Plot(kind="lengths", data={"rows": counts}, alt=f"Mean number of words: {means}.")
