from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from nivesh_lib.records.estimate import Estimate
from nivesh_lib.records.finding import Example, Finding, Plot


def test_a_finding_is_read_back_as_it_was_written():
    found = Finding(
        name="x",
        claim="All is well.",
        estimate=Estimate(0.5, 0.4, 0.6, 9),
        cells=pd.DataFrame({"rows": [np.int64(3)], "share": [np.nan]}),
        plot=Plot(kind="bars", data={"counts": {"a": np.int64(1)}, "unit": "rows"}, alt="One."),
        examples=[Example(query="how much tax")],
    )
    again = Finding.model_validate(found.as_dict())
    assert again == found and again.cells == [{"rows": 3, "share": None}]
    assert again.table["rows"].tolist() == [3] and again.rows["query"].tolist() == ["how much tax"]
    assert again.title == "All is well"


@pytest.mark.parametrize(
    "fields",
    [
        {"claim": "no capital."},
        {"claim": "No full stop"},
        {"verdict": "met"},
        {"verdict": "maybe", "mark": "x"},
        {"unknown": 1},
        {"name": ""},
    ],
)
def test_what_is_no_finding_is_refused(fields):
    with pytest.raises(ValidationError):
        Finding(**{"name": "x", "claim": "All is well.", **fields})


def test_a_finding_does_not_change():
    with pytest.raises(ValidationError):
        Finding(name="x", claim="All is well.").claim = "Not."
