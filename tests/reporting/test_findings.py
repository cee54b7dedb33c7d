from __future__ import annotations

import pytest

from nivesh_lib.records.estimate import Estimate
from nivesh_lib.records.finding import Example, Finding, Plot
from nivesh_lib.reporting.figures import KINDS, figure_of
from nivesh_lib.reporting.findings import show_finding, shown_table

DOTS = Plot(
    kind="intervals", data={"estimates": {"a": Estimate(0.5, 0.4, 0.6, 9)}, "unit": "F1"}, alt="A."
)


def finding(**fields):
    return Finding(**{"name": "x", "claim": "Half are right.", **fields})


@pytest.fixture
def outputs(monkeypatch):
    """What a finding displays, as text."""
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda *given, **_: shown.extend(given))

    def outputs_of(found):
        show_finding(found)
        return [one["text/plain"] if isinstance(one, dict) else str(one) for one in shown]

    return outputs_of


def test_a_finding_shows_claim_verdict_table_examples_and_caveats(outputs):
    found = finding(
        mark="at least 0.9",
        verdict="not met",
        cells=[{"score": "F1", "value": 0.5, "low": 0.4, "high": 0.6}],
        examples=[Example(query="tax?", note="right")],
        caveats=["Few rows."],
    )
    texts = outputs(found)
    assert texts[0] == "**Half are right.**\n\nMark: at least 0.9. ✘ Not met."
    assert "0.50 [0.40, 0.60]" in texts[1]
    assert texts[2:] == ["- “tax?” (right)", "*Few rows.*"]


def test_a_mark_that_was_not_judged_is_shown_as_such(outputs):
    assert outputs(finding(mark="at least 0.9")) == [
        "**Half are right.**\n\nMark: at least 0.9. Not judged."
    ]


def test_the_title_of_the_figure_is_the_claim_where_it_does_not_stand_above():
    assert figure_of(finding(plot=DOTS)).axes[0].get_title(loc="left") == "Half are right"
    assert not figure_of(finding(plot=DOTS), titled=False).axes[0].get_title(loc="left")


def test_markup_in_a_claim_is_shown_as_it_is_written(outputs):
    (claim,) = outputs(finding(claim="<b>Bold</b> [x](http://a)."))
    assert "<b>" not in claim and "](" not in claim


@pytest.mark.parametrize("plot", [None, Plot(kind="unknown", data={}, alt="")])
def test_no_figure_is_an_error_that_names_the_kinds(plot):
    with pytest.raises(ValueError, match=f"has no figure.*{next(iter(sorted(KINDS)))}"):
        figure_of(finding(plot=plot))


def test_numbers_of_a_table_are_rounded_and_missing_ones_empty():
    table = shown_table(finding(cells=[{"a": "x", "b_c": -0.001, "n": 1200, "m": None}]))
    assert table.loc["x"].tolist() == ["0.00", "1,200", ""]
    assert list(table.columns) == ["b c", "n", "m"]
