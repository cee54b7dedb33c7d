from __future__ import annotations

import pytest

from nivesh_lib.records.finding import Finding
from nivesh_lib.records.results import StepResult
from nivesh_lib.reporting.decision import TOP, named, tiles, top_findings
from tests.runs.examples import comparison, result

HELD = "The holdout was not opened."


def finding(name, verdict="", step="s"):
    mark = "a mark" if verdict else ""
    return Finding(name=name, claim=f"{name.title()}.", verdict=verdict, mark=mark, step=step)


def step(*findings, **fields):
    return StepResult(findings=list(findings), **fields)


def judged(*statuses):
    rows = [{"objective": "o", "status": status, "found": "f"} for status in statuses]
    return result("tfidf", 0.7, judgements=rows)


def tile(results, question):
    return next(one for one in tiles(results, "toy@1.0.0", HELD) if question in one.question)


@pytest.mark.parametrize(
    ("statuses", "verdict", "said"),
    [
        (("met", "not met", "undecided"), "not met", "Do not release"),
        (("met", "undecided"), "undecided", "Not yet"),
        (("met",), "met", "if the holdout agrees"),
        ((), "", "no objectives"),
    ],
)
def test_the_worst_verdict_decides_on_a_release(statuses, verdict, said):
    found = tile({"03_tfidf": judged(*statuses)}, "released")
    assert found.verdict == verdict and said in found.answer and HELD in found.sentences


def test_bad_data_stops_a_release_whatever_the_scores():
    bad = step(validation={"valid": False, "issues": ["A label has one row."]})
    found = tile({"01": bad, "03_tfidf": judged("met")}, "released")
    assert found.verdict == "not met" and "01: A label has one row." in found.sentences


def test_without_a_model_nothing_is_released_or_chosen():
    results = {"01": step()}
    assert "No model" in tile(results, "released").answer
    assert "Not part" in tile(results, "Which model").answer


def test_the_model_is_named_and_described_in_words():
    found = tile({"03_tfidf": judged()}, "Which model")
    assert found.answer == "Bag of words" and "weighs words" in found.sentences[0]


def claims(model, step):
    """Return the result of a model with its accuracy in a sentence."""
    own = finding("accuracy", step=step).changed(claim=f"{model} is right.")
    return result(model, {"rules": 0.5}.get(model, 0.7), findings=[own])


def test_a_release_is_of_the_best_model_not_of_the_first_that_was_scored():
    results = {"02": claims("rules", "02"), "03": claims("tfidf", "03")}
    assert tile(results, "released").sentences[0] == "tfidf is right."
    assert tile(results, "Which model").sentences[1:] == ("tfidf is right.",)


@pytest.mark.parametrize(
    ("differs", "verdict", "said"),
    [
        (False, "undecided", "Of all 2 models of the run, the rule set may be as good."),
        (True, "met", "It is ahead of every other model of the run by more than chance."),
    ],
)
def test_a_best_model_that_was_made_after_the_others_were_compared_is_not_mixed_up(
    differs, verdict, said
):
    board = comparison(best="tfidf", other="rules", differs=differs)
    results = {
        "02": claims("rules", "02"),
        "06": step(finding("leader", "met"), model="rules"),
        "07": result("tfidf", 0.7, findings=[finding("recommendation")], **board),
    }
    found = tile(results, "Which model")
    assert (found.answer, found.verdict) == ("Bag of words", verdict)
    assert found.sentences[1:] == (said,) and found.finding.name == "recommendation"


@pytest.mark.parametrize(
    ("verdict", "answer"),
    [("met", "No gap"), ("not met", "Gaps found"), ("undecided", "Not established")],
)
def test_fairness_is_told_as_it_was_judged(verdict, answer):
    found = tile({"06": step(finding("fairness", verdict))}, "fair")
    assert (found.verdict, found.answer, found.sentences) == (verdict, answer, ("Fairness.",))


def test_drift_is_told_by_the_step_that_looked_for_it():
    results = {"03": step(finding("accuracy", "met")), "08": step(finding("compared"))}
    assert "Not part" in tile(results, "drifted").answer
    results["08"] = step(finding("compared"), finding("accuracy", "not met"))
    assert tile(results, "drifted").answer == "Answers are lost"


@pytest.mark.parametrize("impact", ["Route 20 % better", ""])
def test_the_impact_is_that_of_the_objectives(impact):
    objectives = {"file": "f", "missing": "", "impact": impact}
    found = tile({"03": result("tfidf", 0.7, objectives=objectives)}, "What is it for")
    assert found.answer == (impact or "No business impact is stated")


def test_findings_beside_the_leader_come_before_others():
    results = {"03": step(finding("accuracy", step="03")),
               "06": step(finding("accuracy", step="06"), finding("leader"))}  # fmt: skip
    assert named(results)["accuracy"].step == "06"


def test_at_most_ten_findings_are_open_in_their_order():
    results = {"06": step(*(finding(name, "met") for name in [*reversed(TOP), "other"]))}
    names = [one.name for one in top_findings(results)]
    assert names == list(TOP) and len(names) <= 10


def test_what_could_not_be_looked_at_is_neither_open_nor_on_the_first_screen():
    empty = finding("fairness"), finding("handover_by_segment"), finding("abstention")
    results = {"06": step(finding("leader", "met"), finding("recommendation"), *empty)}
    assert [one.name for one in top_findings(results)] == ["leader"]
    assert tile(results, "fair").sentences == ("Fairness.",)
    assert tile(results, "cost").sentences == ("Recommendation.",)


def test_money_is_told_where_a_rate_was_set():
    results = {"03": result("tfidf", 0.7)}
    assert not tile(results, "cost").sentences
    results["03"] |= {"metrics": {**results["03"].metrics, "train_cost": 1.5}}
    assert tile(results, "cost").sentences == ("Training it cost 1.50, at the rate that was set.",)


def test_a_model_that_cannot_be_told_from_the_first_is_named_beside_it():
    results = {"02": result("rules", 0.7), "03": result("tfidf", 0.69), "06": step(**comparison())}
    found = tile(results, "Which model")
    assert found.verdict == "undecided"
    assert "Of all 2 models of the run, the bag of words may be as good." in found.sentences


def test_one_model_alone_is_ahead_of_none():
    alone = comparison(best="tfidf")
    alone["comparison"]["models"] = alone["comparison"]["models"][:1]
    found = tile({"03": result("tfidf", 0.7), "06": step(**alone)}, "Which model")
    assert found.verdict == "" and "ahead" not in " ".join(found.sentences)


def test_a_cost_is_told_whatever_verdict_a_record_gives_it():
    results = {"03": result("tfidf", 0.7), "07": step(finding("recommendation", "met"))}
    assert "Recommendation." in tile(results, "cost").sentences
