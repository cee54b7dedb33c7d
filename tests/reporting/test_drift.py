from __future__ import annotations

import json
import re
from html import unescape

import numpy as np
import pandas as pd
import pytest

from nivesh_lib.errors import DataError
from nivesh_lib.reporting.drift import describe_texts, drift_report
from nivesh_lib.reporting.figures import ACCENT, INK
from tests.reporting.pages import HOSTILE, check_page, opened

# Importing Evidently 0.7 warns, from its own lines and from litestar's.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def frame_of(n, *, words=(3, 9), labels=("tax", "loan"), seed=0):
    rng = np.random.default_rng(seed)
    return describe_texts(
        pd.DataFrame(
            {
                "query": ["loan " * k for k in rng.integers(*words, n)],
                "intent": rng.choice(labels, n),
                "confidence": rng.random(n),
            }
        )
    )


@pytest.fixture(scope="module")
def moved(tmp_path_factory):
    """Longer queries and a new label: what Evidently finds, and the page it wrote."""
    page = tmp_path_factory.mktemp("drift") / "made" / "evidently.html"
    current = frame_of(2_000, words=(12, 30), labels=("tax", "goal"), seed=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DO_NOT_TRACK", "1")
        return drift_report(frame_of(2_000), current, html=page), page


def test_a_planted_shift_is_found_where_it_was_planted(moved):
    assert {row["column"]: row["drifted"] for row in moved[0]} == {
        "intent": True,
        "words": True,
        "characters": True,
        "digits_share": False,
        "confidence": False,
    }


def test_each_row_tells_its_method_and_threshold_as_plain_json(moved):
    rows = {row["column"]: row for row in json.loads(json.dumps(moved[0]))}
    assert (rows["intent"]["method"], rows["words"]["method"]) == ("jensenshannon", "wasserstein")
    assert all(row["drifted"] == (row["value"] >= row["threshold"]) for row in rows.values())


def test_the_page_is_written_whole_and_nothing_is_left_beside_it(moved):
    page = moved[1]
    assert page.read_text(encoding="utf-8").rstrip().endswith("</html>")
    assert [path.name for path in page.parent.iterdir()] == ["evidently.html"]


def test_the_page_holds_no_query(moved):
    assert "loan loan" not in moved[1].read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """The page of labels, segments and languages that are written as scripts and markup."""
    page = tmp_path_factory.mktemp("hostile") / "evidently.html"
    labels = frame_of(100, labels=HOSTILE)["intent"]
    frame = pd.DataFrame(dict.fromkeys(("intent", "language", "income_segment"), labels))
    drift_report(frame, frame, html=page)
    return page


def test_a_page_allows_the_scripts_of_evidently_and_no_others(hostile, moved):
    for page in (hostile, moved[1]):
        assert len(check_page(page.read_text(encoding="utf-8")).scripts) == 4


def test_in_a_browser_no_label_runs_and_all_are_shown_as_they_are(hostile):
    page = opened(hostile)
    assert not re.search(r"<html[^>]* id=", page)
    assert page.count(">Drift in column '") == 3
    drawn = {unescape(text) for text in re.findall(r"<text[^>]*>(.*?)</text>", page)}
    assert drawn >= set(HOSTILE)


def test_the_page_opens_on_shares_in_the_colours_of_our_figures(moved):
    page = moved[1].read_text(encoding="utf-8")
    assert not {"#ed0400", "#4d4d4d"} & set(re.findall(r'"color": "(#\w{6})"', page))
    assert page.count(f'"color": "{ACCENT}"') > 4 and page.count(f'"color": "{INK}"') > 4
    assert page.count('"active": 1') == 5


def test_a_page_of_another_form_is_not_written(hostile, monkeypatch):
    monkeypatch.setattr("evidently.core.report.Snapshot.get_html_str", lambda *_, **__: "<html>")
    before = hostile.read_text(encoding="utf-8")
    with pytest.raises(DataError, match="not of the known form"):
        drift_report(frame_of(9), frame_of(9), html=hostile)
    assert hostile.read_text(encoding="utf-8") == before


def test_identical_frames_are_steady():
    frame = frame_of(100)
    assert [row["value"] for row in drift_report(frame, frame)] == [0.0] * 5


def test_another_sample_of_the_same_kind_is_steady():
    rows = drift_report(frame_of(2_000), frame_of(2_000, seed=1))
    assert not any(row["drifted"] for row in rows)


def test_only_columns_with_values_in_both_frames_are_compared():
    before = frame_of(50).assign(language="hi", income_segment=None, predicted=None)
    now = frame_of(50).assign(income_segment="low", predicted=None)
    columns = {row["column"] for row in drift_report(before, now)}
    assert columns == {"intent", "words", "characters", "digits_share", "confidence"}


def test_the_frames_are_not_changed():
    frame = frame_of(50)
    before = frame.copy()
    drift_report(frame, frame)
    pd.testing.assert_frame_equal(frame, before)


@pytest.mark.parametrize(
    ("query", "described"),
    [
        ("save ₹50 lakh", [3, 13, 2 / 13]),
        ("", [0, 0, 0]),
        ("  ", [0, 2, 0]),
        ("2026", [1, 4, 1]),
        ("कर ५०", [2, 5, 2 / 5]),
    ],
)
def test_a_text_is_described_by_numbers(query, described):
    row = describe_texts(pd.DataFrame({"query": [query]})).iloc[0]
    assert row[["words", "characters", "digits_share"]].tolist() == pytest.approx(described)


def test_descriptors_take_the_place_of_the_text():
    frame = pd.DataFrame({"text": ["save tax"], "intent": ["tax"]})
    assert list(describe_texts(frame, "text")) == ["intent", "words", "characters", "digits_share"]
    assert list(frame) == ["text", "intent"]
