from __future__ import annotations

import re
from html import unescape

import numpy as np
import pandas as pd
import pytest

from nivesh_lib.errors import DataError
from nivesh_lib.records.finding import Finding
from nivesh_lib.reporting.drift import describe_texts, write_drift_page
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


def finding(claim="Drift is shown.", **fields):
    return Finding(name="drift", claim=claim, mark="no drift shown", verdict="not met", **fields)


@pytest.fixture(scope="module")
def moved(tmp_path_factory):
    """The page of longer queries and a new label."""
    page = tmp_path_factory.mktemp("drift") / "made" / "evidently.html"
    current = frame_of(2_000, words=(12, 30), labels=("tax", "goal"), seed=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DO_NOT_TRACK", "1")
        write_drift_page(frame_of(2_000), current, page, verdict=finding())
    return page


def test_the_page_is_written_whole_and_nothing_is_left_beside_it(moved):
    page = moved
    assert page.read_text(encoding="utf-8").rstrip().endswith("</html>")
    assert [path.name for path in page.parent.iterdir()] == ["evidently.html"]


def test_the_page_holds_no_query(moved):
    assert "loan loan" not in moved.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """The page of labels, segments and languages that are written as scripts and markup."""
    page = tmp_path_factory.mktemp("hostile") / "evidently.html"
    labels = frame_of(100, labels=HOSTILE)["intent"]
    frame = pd.DataFrame(dict.fromkeys(("intent", "language", "income_segment"), labels))
    write_drift_page(
        frame, frame, page, verdict=finding(f"Moved: {HOSTILE[0]}.", caveats=[*HOSTILE])
    )
    return page


def test_a_page_allows_the_scripts_of_evidently_and_no_others(hostile, moved):
    for page in (hostile, moved):
        assert len(check_page(page.read_text(encoding="utf-8")).scripts) == 4


def test_in_a_browser_no_label_runs_and_all_are_shown_as_they_are(hostile):
    page = opened(hostile)
    assert not re.search(r"<html[^>]* id=", page)
    assert page.count(">Column '") == 3
    drawn = {unescape(text) for text in re.findall(r"<text[^>]*>(.*?)</text>", page)}
    assert drawn >= set(HOSTILE)


def test_the_page_opens_on_shares_in_the_colours_of_our_figures(moved):
    page = moved.read_text(encoding="utf-8")
    assert not {"#ed0400", "#4d4d4d"} & set(re.findall(r'"color": "(#\w{6})"', page))
    assert page.count(f'"color": "{ACCENT}"') > 4 and page.count(f'"color": "{INK}"') > 4
    assert page.count('"active": 1') == 5


def test_a_page_of_another_form_is_not_written(hostile, monkeypatch):
    monkeypatch.setattr("evidently.core.report.Snapshot.get_html_str", lambda *_, **__: "<html>")
    before = hostile.read_text(encoding="utf-8")
    with pytest.raises(DataError, match="not of the known form"):
        write_drift_page(frame_of(9), frame_of(9), hostile, verdict=finding())
    assert hostile.read_text(encoding="utf-8") == before


def test_our_verdict_stands_above_and_no_other_one_is_on_the_page(moved):
    page = moved.read_text(encoding="utf-8")
    assert page.index("<body") < page.index("Drift is shown.") < page.index('<div id="root_')
    assert "✘ Not met: no drift shown." in page
    assert "Jensen-Shannon distance between before and now: 0." in page
    assert not re.search("[Dd]rift (not )?detected|Drift in column|drift threshold", page)


def test_only_columns_with_values_in_both_frames_are_compared(tmp_path):
    before = frame_of(50).assign(language="hi", income_segment=None, predicted=None)
    now = frame_of(50).assign(income_segment="low", predicted=None)
    write_drift_page(before, now, tmp_path / "page.html", verdict=finding())
    columns = set(re.findall(r"\"Column '(\w+)'", (tmp_path / "page.html").read_text("utf-8")))
    assert columns == {"intent", "words", "characters", "digits_share", "confidence"}


def test_the_frames_are_not_changed(tmp_path):
    frame = frame_of(50)
    before = frame.copy()
    write_drift_page(frame, frame, tmp_path / "page.html", verdict=finding())
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
