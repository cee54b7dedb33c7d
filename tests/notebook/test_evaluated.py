"""Models in a notebook: which findings they make, for models of ours and of anybody's."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import make_pipeline

from nivesh_lib.data.publishing import publish
from nivesh_lib.data.versions import load_dataset
from nivesh_lib.errors import NiveshError
from nivesh_lib.evaluation.robustness.perturbations import shuffled_words
from nivesh_lib.evaluation.summary import pooled
from nivesh_lib.models.text.rules import RulesClassifier
from nivesh_lib.models.text.tfidf import TfidfClassifier
from nivesh_lib.notebook.session import start_run
from nivesh_lib.pipeline.spec import read_notebook, source_of
from nivesh_lib.runs.layout import RunDirectory
from tests.conftest import LABELS, REPOSITORY

PIPELINE = """\
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
model = make_pipeline(TfidfVectorizer(), LogisticRegression())
model.fit(data.train["query"], data.train["intent"])
"""
FAST = {"DATASET": "toy@1.0.0", "N_BOOT": 20, "N_TIMED": 3}


@pytest.fixture
def home(tmp_path: Path, monkeypatch, store, make_rows) -> Path:
    monkeypatch.setenv("NIVESH_HOME", str(tmp_path))
    monkeypatch.setenv("NIVESH_RUN_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("NIVESH_MODE", "nbval")
    rows = make_rows(60, language="en")
    words = {label: f"{label[:4]} my order" for label in LABELS}
    publish(
        rows.assign(query=rows["intent"].map(words) + " " + rows["query"]),
        "toy",
        "1.0.0",
        description="toy",
    )
    return tmp_path


@pytest.fixture
def run(home):
    return start_run("05_toy", **FAST)


@pytest.fixture
def data(home):
    return load_dataset("toy@1.0.0")


def executed(stem: str, model: str) -> dict:
    """Execute the cells of a notebook here, its model replaced, and return its names."""
    names: dict = {}
    for cell in read_notebook(REPOSITORY / "notebooks" / f"{stem}.ipynb")["cells"]:
        source = source_of(cell) if cell["cell_type"] == "code" else ""
        if "parameters" in cell["metadata"].get("tags", []):
            source += "".join(f"\n{name} = {value!r}" for name, value in FAST.items())
        exec(model if ".fit(" in source else source, names)
    return names


def test_a_pipeline_of_three_lines_gets_every_finding_of_notebook_03(home, no_collection):
    run = executed("03_tfidf", PIPELINE)["run"]
    made = set(run.findings)
    assert made == {
        *("accuracy", "macro_f1", "gain_over_02_baseline", "confusions", "by_label", "learned"),
        *("confidence", "by_slice", "p95_ms"),
    }
    assert (
        "tax"
        in {row["label"]: row["words"] for row in run.findings["learned"].cells}["tax planning"]
    )
    recorded = RunDirectory(home / "run").result("03_tfidf")
    assert recorded.model == "pipeline" and {one.name for one in recorded.findings} == made


@pytest.mark.parametrize(
    ("last", "claim"),
    [
        (LogisticRegression(), "The heaviest words of goal planning are “goal"),
        (MultinomialNB(), "The model has no weights of words to show."),
    ],
)
def test_the_words_of_a_linear_pipeline_are_shown_of_others_one_line_says_so(
    run, data, last, claim
):
    made = run.evaluate(make_pipeline(CountVectorizer(), last), data)
    assert made.learned().claim.startswith(claim)


def test_with_two_labels_the_heaviest_words_of_each_are_its_own(run, data):
    texts, labels = ["pay tax", "buy car"] * 4, ["tax_planning", "goal_planning"] * 4
    made = run.evaluate(make_pipeline(CountVectorizer(), LogisticRegression()), data)
    made.model.fit(texts, labels)
    words = {row["label"]: row["words"] for row in made.learned().cells}
    assert "pay" in words["tax planning"][:8] and "car" in words["goal planning"][:8]


def test_the_findings_of_a_further_model_have_its_name(run, data):
    words = run.evaluate(TfidfClassifier(char_ngram_max=0), data, part=True)
    assert words.answer().name == "tfidf_accuracy"
    assert run.evaluate(RulesClassifier(), data).answer().name == "accuracy"
    assert {"accuracy", "tfidf_accuracy", "tfidf_macro_f1"} <= set(run.findings)


def test_models_are_combined_by_a_pool_that_the_model_has_too(run, data):
    both = (TfidfClassifier(char_ngram_max=0), RulesClassifier())
    words, rules = (run.evaluate(model, data) for model in both)
    together = run.combine(words, rules)
    cv, weights = pooled([words.cv, rules.cv], data.train)
    pd.testing.assert_frame_equal(together.cv.oof, cv.oof)
    assert list(together.model.weights.values()) == weights[None]
    assert (together.name, together.part) == ("ensemble", True)
    assert set(together.model.members_) == {"tfidf", "rules"}
    assert together.gain_over(words, rules).name == "ensemble_ahead_of_all"


def test_a_mark_that_no_finding_judges_is_an_error_and_one_that_is_judged_is_shown(
    run, data, capsys
):
    run.set_marks(word_order="its answers rest on word order")
    made = run.evaluate(
        TfidfClassifier(char_ngram_max=0), data, perturbations={"shuffled words": shuffled_words}
    )
    with pytest.raises(NiveshError, match="word_order"):
        run.finish(made)
    assert made.word_order().verdict == "undecided"
    run.finish(made)
    assert "~ Undecided" in capsys.readouterr().out


def test_shuffled_words_are_no_other_spelling(run, data):
    perturbations = {"shuffled words": shuffled_words}
    made = run.evaluate(RulesClassifier(), data, perturbations=perturbations)
    assert "shuffled words" not in made.spellings().table["view"].tolist()
    assert run.evaluate(RulesClassifier(), data).word_order().verdict == ""


def test_without_the_other_model_nothing_is_compared(run, data, capsys):
    made = run.evaluate(RulesClassifier(), data)
    for finding in (made.gain_over("03_tfidf"), made.changes_from("03_tfidf")):
        assert (
            finding.claim.startswith("Nothing is compared with the model of 03 tfidf")
            and not finding.verdict
        )


def test_a_model_without_a_training_of_its_own_has_no_learning_curve(run, data):
    assert run.evaluate(RulesClassifier(), data).learning_curves().plot is None
