from __future__ import annotations

import pytest

from nivesh_lib.evaluation.findings import release as findings
from nivesh_lib.records.estimate import Estimate
from nivesh_lib.records.finding import Finding
from nivesh_lib.records.release import Gate
from nivesh_lib.reporting.figures import figure_of

ACCURACY = Estimate(0.87, 0.84, 0.89, 800)


def row(model, p95_ms=10.0):
    return {
        "model": model,
        "scores": {"accuracy": ACCURACY, "macro_f1": ACCURACY},
        "p95_ms": p95_ms,
        "size_bytes": 2_000_000,
    }


def gate(name, verdict):
    return Gate(name=name, mark="at least 1", verdict=verdict, found="0.5", why="So it is.")


def test_the_candidate_is_named_with_score_time_and_version():
    found = findings.candidate("tfidf", [row("tfidf"), row("rules")], "1.2.0")
    assert found.claim == (
        "The bag of words would be released, as 1.2.0: out of fold it routes 87 of 100 queries "
        "(84 to 89) rightly and answers 95 of 100 within 10.0 ms."
    )
    assert [cell["model"] for cell in found.cells] == ["bag of words", "rule set"]


def test_better_models_that_cannot_be_released_are_named():
    found = findings.candidate("rules", [row("tfidf"), row("lstm"), row("rules")], "1.0.0")
    assert found.claim.endswith("; not the bag of words and the LSTM, too late or not saved.")


@pytest.mark.parametrize(
    ("verdicts", "beyond", "verdict", "words"),
    [
        (("met", "met"), "", "met", "2 of 2 marks are shown to be reached out of fold."),
        (("met", "met"), "Too few rows.", "undecided", "2 of 2 marks are shown"),
        (("met", "not met"), "", "not met", "1 of 2 marks is shown to be reached"),
        (("met", "not reachable"), "", "undecided", "out of fold; not: gate 1."),
        (("undecided", "not shown"), "", "undecided", "0 of 2 marks are shown"),
        (("undecided", "not met"), "", "not met", "not: gate 0 and gate 1."),
    ],
)
def test_a_stage_is_judged_by_its_worst_gate(verdicts, beyond, verdict, words):
    gates = [gate(f"gate_{n}", one) for n, one in enumerate(verdicts)]
    found = findings.stage("staging", gates, beyond)
    assert found.verdict == verdict and words in found.claim
    assert [cell["verdict"] for cell in found.cells] == list(verdicts)
    assert (beyond in found.caveats) == bool(beyond)


def scored(name, value, n):
    return {"slice": name, "rows": n} | Estimate(value, value - 0.1, value + 0.1, n).columns(
        "accuracy"
    )


def test_worries_name_the_worst_slice_what_is_not_shown_and_what_is_absent():
    rows = [scored("language=en", 0.87, 800), scored("traits=typo", 0.7, 80)]
    rows += [scored("selection=hard", 0.1, 80)]  # picked because a model failed on them
    judged = Finding(name="fairness", claim="It is open.", mark="m", verdict="undecided")
    known = {
        "equal accuracy": judged,
        "confidence": judged.changed(verdict="met"),
        "labels in doubt": Finding(name="doubtful", claim="Some are."),
        "off-topic queries": None,
    }
    found = findings.worry("tfidf", rows, known)
    assert found.claim == (
        "The bag of words serves “traits: typo” worst: 70 of 100 queries (60 to 80) are right; not "
        "shown to be in order: equal accuracy; not part of the run: off-topic queries."
    )
    about = [cell["about"] for cell in found.cells]
    assert about == ["equal accuracy", "confidence", "labels in doubt"]
    assert figure_of(found).axes


STAYS = [
    {"version": v, "stage": stage, "start": f"2026-12-{start}", "end": end and f"2026-12-{end}"}
    for v, stage, start, end in (
        ("1.0.0", "Development", "01T10:00:00+00:00", "02T10:00:00+00:00"),
        ("1.0.0", "Production", "02T10:00:00+00:00", ""),
        ("1.1.0", "Development", "05T10:00:00+00:00", ""),
    )
]


def test_the_history_has_a_line_for_each_version_and_a_colour_for_each_stage():
    found = findings.history(STAYS, "intents")
    assert found.claim == "2 versions of intents were released; 1.0.0 serves."
    (axes,) = figure_of(found).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["1.0.0", "1.1.0"]
    lines = {one.get_label(): one.get_segments() for one in axes.collections}
    assert len(lines["Development"]) == 2 and len(lines["Staging"]) == 0
    (serving,) = lines["Production"]
    assert serving[0][1] == 0 and serving[1][0] > lines["Development"][1][0][0]


def test_without_production_or_without_any_release_the_history_says_so():
    assert findings.history(STAYS[:1], "intents").claim.endswith("none is in production.")
    none = findings.history([], "my_texts")
    assert none.plot is None and none.claim.startswith("No release of my texts is in the log yet")
