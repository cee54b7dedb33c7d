from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from nivesh_lib.evaluation.drift import Change, Drift
from nivesh_lib.evaluation.findings import drift
from nivesh_lib.evaluation.samples import Samples
from nivesh_lib.reporting.figures import ACCENT, INK, figure_of

LIMIT = "are not what production sends"


def side(right, n, *, words=3, sure=0.8, label="tax_planning", other="loans, cards"):
    """``n`` answered rows, the first ``right`` rightly, one query in ten a word longer."""
    numbers = np.arange(n)
    return pd.DataFrame(
        {
            "query": ["tax " * (words + (k % 10 == 0)) for k in numbers],
            "intent": label,
            "predicted": np.where(numbers < right, label, other),
            "confidence": np.where(numbers % 2 == 0, sure, sure - 0.1),
        }
    )


def samples(before, now, *, limit=""):
    noun = "queries chosen for being hard" if limit else "new queries"
    return Samples(before, now, "some rows with others", noun, limit)


def found(*, p=0.3, least=0.1, aspect="language", limit=2.5):
    """A test of 100 rows in which one aspect changed, and a second one less."""
    most = Change(aspect, "queries in hinglish", 0.15, 0.4, 5.0, limit, p, least)
    second = Change("probabilities", "the mean probability of tax", 0.1, 0.1, 0.2, 3.0, 1.0, 0.9)
    return Drift((most, second), 800, 100, 0.05)


@pytest.mark.parametrize(
    ("right_now", "n_now", "verdict", "words"),
    [
        (800, 1000, "met", "; no more than 5 of 100 are lost."),
        (900, 1000, "met", "; no more than 5 of 100 are lost."),
        (600, 1000, "not met", "; more than 5 of 100 are lost."),
        (30, 40, "undecided", "; whether more than 5 of 100 are lost, these rows cannot tell."),
        (740, 1000, "undecided", "these rows cannot tell."),
    ],
)
def test_the_loss_of_accuracy_is_judged_by_its_interval(right_now, n_now, verdict, words):
    found = drift.accuracy(samples(side(800, 1000), side(right_now, n_now)))
    assert found.verdict == verdict and found.claim.endswith(words)
    assert found.claim.startswith(
        f"The watched model answers {100 * right_now / n_now:.0f} of 100 new queries ("
    )
    assert found.estimate.value == pytest.approx(right_now / n_now - 0.8)


def test_rows_chosen_for_being_hard_decide_nothing_about_production():
    found = drift.accuracy(samples(side(77, 100), side(22, 100), limit=LIMIT))
    assert found.claim.startswith(
        "The watched model answers 22 of 100 queries chosen for being hard ("
    )
    assert "against 77 of 100 queries" in found.claim and "lost" not in found.claim
    assert found.claim.endswith("; not judged, as such rows are not what production sends.")
    assert (found.verdict, found.mark) == ("", drift.MARKS["accuracy"])
    assert found.caveats == ["Queries chosen for being hard are not what production sends."]


def test_one_fold_is_not_called_later_than_the_others():
    fold = {"noun": "queries of one fold", "limit": "are no later", "earlier": "in the other folds"}
    both = replace(samples(side(77, 100), side(22, 100, words=9, sure=0.3)), **fold)
    for one in (drift.accuracy(both), drift.labels(both), drift.lengths(both)):
        assert "before" not in one.claim and "new queries" not in one.claim
    assert "than in the other folds: " in drift.lengths(both).claim


def test_no_finding_on_hard_rows_asks_for_training_or_calls_them_new():
    both = samples(side(77, 100), side(22, 100, words=9, sure=0.3), limit=LIMIT)
    every = [drift.compared(both), drift.accuracy(both), drift.moved(both, found())]
    every += [drift.labels(both), drift.lengths(both), drift.confidence(both)]
    for one in every:
        assert not one.verdict and one.caveats
        assert "etrain" not in one.claim and "new queries" not in one.claim


def test_wrong_and_right_answers_are_shown_with_display_names():
    found = drift.accuracy(samples(side(8, 10), side(1, 10)))
    notes = [example.note for example in found.examples]
    assert notes == ["tax planning, taken for “loans, cards”"] * 2 + ["tax planning, rightly"]


MOVED = "furthest moved queries in hinglish, 40 % against 15 % (p {}, corrected for 2 tests)"


@pytest.mark.parametrize(
    ("options", "verdict", "start", "end"),
    [
        ({"p": 0.004}, "not met", "Drift is shown", f"{MOVED.format('0.004')}."),
        ({"p": 0.05, "least": 0.9}, "not met", "Drift is shown", f"{MOVED.format('0.050')}."),
        (
            {},
            "met",
            "No drift is shown",
            "; a change below 10 points would be missed more than one time in five.",
        ),
        (
            {"least": 0.21},
            "undecided",
            "No drift is shown",
            "change below 21 points would be missed more than one time in five.",
        ),
        (
            {"least": np.nan},
            "undecided",
            "No drift is shown",
            "even the largest change would be missed more than one time in five.",
        ),
    ],
)
def test_drift_is_judged_by_the_test_and_by_what_the_rows_could_show(options, verdict, start, end):
    one = drift.moved(samples(side(8, 10), side(8, 10)), found(**options))
    assert one.claim.startswith(f"{start} between 100 new queries and 800 before; furthest moved ")
    assert one.claim.endswith(end) and one.verdict == verdict
    assert one.cells[0]["p"] == f"{options.get('p', 0.3):.3f}"


def test_without_shares_of_labels_or_languages_lengths_say_what_would_show():
    both = samples(side(8, 10), side(8, 10))
    assert "a change below 10 points" in drift.moved(both, found(aspect="length")).claim


def test_rows_that_are_all_alike_leave_it_undecided():
    one = drift.moved(samples(side(8, 10), side(8, 10)), Drift((), 9, 9, 0.05))
    assert one.verdict == "undecided" and one.plot is None
    assert one.claim == "No drift is shown between 9 new queries and 9 before."


def test_a_difference_of_rows_that_are_not_of_production_is_not_called_drift():
    one = drift.moved(samples(side(8, 10), side(8, 10), limit=LIMIT), found(p=0.001))
    assert one.claim.startswith("A difference is shown between 100 queries chosen for being hard")
    assert "drift" not in one.claim.lower() and "not judged" in one.claim
    assert one.verdict == "" and one.caveats[0].startswith("Queries chosen for being hard are not")


def mixed(n, share):
    frame = side(n, n)
    frame.loc[frame.index % 2 == 0, "intent"] = "debt_advice"
    frame.loc[: int(n * share) - 1, "intent"] = "loans, cards"
    return frame


@pytest.mark.parametrize(
    ("share", "words"),
    [
        (0.6, "“loans, cards” is more frequent among new queries: 60 % against 20 % before"),
        (0.02, "“loans, cards” is less frequent among new queries: 2.0 % against 20 % before"),
        (0.22, "Whether any label is more or less frequent among new queries, these rows cannot"),
    ],
)
def test_the_label_that_changed_most_is_named_where_chance_does_not_explain_it(share, words):
    found = drift.labels(samples(mixed(400, 0.2), mixed(200, share)))
    assert words in found.claim
    assert (found.estimate is None) == words.startswith("Whether")
    assert "corrected for 3 labels" in found.caveats[-1]


def test_a_label_that_is_new_or_gone_is_among_the_changes():
    gone = side(50, 50, label="gone_label")
    found = drift.labels(samples(gone, side(50, 50, label="new_label")))
    assert {cell["label"] for cell in found.cells} == {"gone label", "new label"}


def test_of_many_labels_those_that_changed_most_are_drawn():
    many = pd.concat([side(5, 5, label=f"label_{k}") for k in range(60)])
    found = drift.labels(samples(many, side(50, 50, label="label_7")))
    assert len(found.plot.data["shares"]["now"]) == 20
    assert found.plot.data["shares"]["now"]["label 7"] == 1


@pytest.mark.parametrize(
    ("words", "claim"),
    [
        (9, "New queries are longer than before: 9.1 words on average, against 3.1 (+6.0, "),
        (1, "New queries are shorter than before: 1.1 words on average, against 3.1 (-2.0, "),
        (3, "Whether new queries are longer or shorter than before, these rows cannot tell: "),
    ],
)
def test_lengths_are_compared_by_their_interval(words, claim):
    found = drift.lengths(samples(side(50, 50), side(50, 50, words=words)))
    assert found.claim.startswith(claim)


@pytest.mark.parametrize(
    ("right", "sure", "words"),
    [
        (20, 0.4, "it would have warned of the loss."),
        (20, 0.8, "it gives no warning of the loss."),
        (99, 0.4, "a false alarm, as more answers are right."),
        (99, 0.8, "rightly no alarm."),
        (60, 0.4, "whether fewer answers are right, these rows cannot tell."),
        (60, 0.8, "whether fewer answers are right, these rows cannot tell."),
    ],
)
def test_confidence_is_judged_by_whether_it_fell_where_accuracy_did(right, sure, words):
    found = drift.confidence(samples(side(60, 100), side(right, 100, sure=sure)))
    assert found.claim.endswith(words)


def test_what_is_compared_is_shown_without_personal_data():
    now = side(5, 5).assign(query="call me on 9876543210")
    found = drift.compared(samples(side(5, 5), now))
    assert found.claim == "Compared are some rows with others." and not found.caveats
    assert len(found.examples) == 3 and "9876543210" not in found.examples[0].query


@pytest.mark.parametrize("name", ["accuracy", "moved", "labels", "lengths", "confidence"])
def test_each_figure_is_drawn_with_the_claim_as_title(name):
    both = samples(side(40, 50), side(20, 50, words=9))
    one = getattr(drift, name)(both, *([found()] if name == "moved" else []))
    title = figure_of(one).axes[0].get_title(loc="left")
    assert title.replace("\n", " ") == one.title


@pytest.mark.parametrize("name", ["accuracy", "labels", "lengths", "confidence"])
def test_before_and_now_have_one_colour_each_in_all_figures(name):
    figure = figure_of(getattr(drift, name)(samples(side(40, 50), side(20, 50, words=9))))
    axes = figure.axes[0]
    drawn = [*axes.lines, *axes.patches, *axes.containers, *axes.collections]
    colours = {
        one.get_label(): (one[0] if hasattr(one, "patches") else one)
        for one in drawn
        if one.get_label() in ("before", "now")
    }
    assert {name: colour_of(one) for name, one in colours.items()} == {"before": INK, "now": ACCENT}


def colour_of(drawn):
    own = drawn.get_color() if hasattr(drawn, "get_color") else drawn.get_edgecolor()
    colour = to_hex(own)
    return to_hex(drawn.get_facecolor()) if colour in ("#000000", "#ffffff") else colour


def test_the_record_of_the_step_agrees_with_its_findings():
    both = samples(side(80, 100), side(22, 100), limit=LIMIT)
    recorded = drift.recorded(both, found(p=0.01))
    assert recorded["headline"] == drift.accuracy(both).claim
    assert recorded["metrics"]["accuracy_change"]["value"] == pytest.approx(-0.58)
    assert recorded["metrics"]["drift_p"] == 0.01 and recorded["metrics"]["moved_aspects"] == 1
    assert recorded["metrics"]["accuracy_now"] == 0.22


def test_rows_chosen_for_being_hard_cannot_tell_whether_confidence_would_warn():
    found = drift.confidence(samples(side(77, 100), side(22, 100, sure=0.3), limit=LIMIT))
    assert found.claim.endswith("such rows cannot tell whether it would warn.")
