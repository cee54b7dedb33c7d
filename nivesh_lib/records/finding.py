"""A finding: one sentence, with the numbers, the verdict, the figure and the rows behind it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from nivesh_lib.records.base import Record, plain
from nivesh_lib.records.estimate import Estimate

if TYPE_CHECKING:
    import pandas as pd

Verdict = Literal["met", "not met", "undecided", ""]


class Plot(Record):
    """A kind of figure (`reporting.figures.KINDS`), its data as JSON, and its content in words."""

    model_config = ConfigDict(extra="forbid")

    kind: str
    data: dict[str, Any]
    alt: str

    @field_validator("data", mode="before")
    @classmethod
    def _plain(cls, data: Any) -> Any:
        return plain(data)


class Example(Record):
    """An anonymised query that makes a finding concrete, and what became of it."""

    model_config = ConfigDict(extra="forbid")

    query: str
    note: str = ""


class Finding(Record):
    """One thing that an analysis found.

    Parameters
    ----------
    name
        Names the finding within its step; a mark of the same name is judged by it.
    claim
        One sentence computed from the values, which is also the title of the figure.
    estimate
        The value that the claim rests on.
    mark, verdict
        What it had to reach, in words, and whether it did. Undecided: these rows cannot tell.
    cells
        The rows of the table.
    examples
        Queries, anonymised.
    caveats
        What limits the claim. Whatever shows the finding shows its caveats.
    step, source
        The notebook, and the public function that can be called without one.

    Raises
    ------
    ValueError
        The claim is no sentence, or there is a verdict without a mark.
    """

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1)
    claim: str
    estimate: Estimate | None = None
    mark: str = ""
    verdict: Verdict = ""
    cells: Any = []  # a list of dicts; a DataFrame becomes one
    plot: Plot | None = None
    examples: list[Example] = []
    caveats: list[str] = []
    step: str = ""
    source: str = ""

    @field_validator("cells", mode="before")
    @classmethod
    def _rows(cls, value: Any) -> Any:
        if hasattr(value, "to_dict"):  # a DataFrame; its index is not kept
            value = value.to_dict("records")
        if not isinstance(value, list) or not all(isinstance(row, Mapping) for row in value):
            raise ValueError("not a list of rows")
        return [{str(key): _cell(cell) for key, cell in row.items()} for row in value]

    @field_validator("claim")
    @classmethod
    def _is_sentence(cls, claim: str) -> str:
        if not claim.endswith((".", "!", "?")) or claim[0].islower():
            raise ValueError(f"{claim!r} is no sentence")
        return claim

    @model_validator(mode="after")
    def _is_judged(self) -> Self:
        if self.verdict and not self.mark:
            raise ValueError(f"{self.name} has the verdict {self.verdict!r} on no mark")
        return self

    @property
    def title(self) -> str:
        """The claim without its full stop, as the title of a figure."""
        return self.claim.removesuffix(".")

    @property
    def table(self) -> pd.DataFrame:
        """The table of the finding, one row for each of ``cells``."""
        import pandas as pd

        return pd.DataFrame(self.cells)

    @property
    def rows(self) -> pd.DataFrame:
        """The examples, with the columns query and note."""
        import pandas as pd

        return pd.DataFrame([example.model_dump() for example in self.examples])


def _cell(value: Any) -> Any:
    """Return a plain value; missing ones become None, as JSON has no NaN."""
    value = plain(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value
