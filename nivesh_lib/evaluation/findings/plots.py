"""The two figures that most findings have: estimates with intervals, and differences of shares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nivesh_lib.records.estimate import Estimate
from nivesh_lib.records.finding import Plot
from nivesh_lib.wording import points


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
