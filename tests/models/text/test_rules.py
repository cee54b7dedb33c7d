from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from nivesh_lib.errors import ModelError
from nivesh_lib.models.base import load_model
from nivesh_lib.models.text.rules import RulesClassifier, mine_keywords, read_rules
from tests.models.conftest import LABELS, TEXTS

SHIPPED = Path(__file__).parents[3] / "data" / "intents" / "rules.toml"
TWO_RULES = """
[[rule]]
label = "tax_planning"
pattern = '80c|\\btax\\b'

[[rule]]
label = "loan_inquiry"
pattern = '\\bemi\\b'
weight = 3
"""


def mined(n_keywords=12):
    return mine_keywords(TEXTS, np.array(LABELS, dtype=object), n_keywords=n_keywords)


# --- mined keywords --------------------------------------------------------------


def test_a_word_of_one_label_is_mined_for_it():
    found = {rule["pattern"]: rule["label"] for rule in mined()}
    assert found[r"\bloan\b"] == "loan_inquiry"
    assert found[r"\btax\b"] == "tax_planning"


def test_a_word_of_every_label_is_not_mined():
    labels = np.array(["tax", "loan"], dtype=object)
    rules = mine_keywords(["my tax", "my loan"], labels, n_keywords=9)
    assert not [rule for rule in rules if rule["pattern"] == r"\bmy\b"]


@pytest.mark.parametrize("n", [1, 3])
def test_no_label_gets_more_keywords_than_asked_for(n):
    labels = [rule["label"] for rule in mined(n)]
    assert {label: labels.count(label) for label in labels} == dict.fromkeys(sorted(set(LABELS)), n)


def test_a_weight_is_the_share_of_texts_that_carry_the_label():
    labels = np.array(["tax", "tax", "tax", "loan", "loan"], dtype=object)
    rules = mine_keywords(["save", "save", "save", "save", "emi"], labels, n_keywords=1)
    assert [(rule["label"], rule["weight"]) for rule in rules] == [("loan", 1.0), ("tax", 0.75)]


@pytest.mark.parametrize("text", ["HOME LOAN", "home-loan", "a home, loan?", "home \n\n loan"])
def test_a_pair_of_words_is_found_across_case_and_punctuation(text):
    # Only the order tells the two labels apart, so only a pair can.
    model = RulesClassifier().fit(["loan home", "home loan"], ["address", "loan_inquiry"])
    assert model.predict([text]).tolist() == ["loan_inquiry"]


@pytest.mark.parametrize("text", ["loaned", "taxi", "80ccd"])
def test_a_part_of_a_word_is_not_a_keyword(text):
    model = RulesClassifier().fit(TEXTS, LABELS)
    assert not model.coverage([text]).any()


def test_texts_without_a_word_teach_only_how_frequent_labels_are():
    model = RulesClassifier().fit(["?", "!", "..."], ["a", "b", "b"])
    assert model.rules_ == []
    np.testing.assert_allclose(model.predict_proba(["tax"]), [[1 / 3, 2 / 3]])


@pytest.mark.parametrize("prior_weight", [0, 0.1, 5])
def test_a_text_without_a_match_gets_the_most_frequent_label(prior_weight):
    model = RulesClassifier(prior_weight=prior_weight).fit([*TEXTS, "tax"], [*LABELS, LABELS[-1]])
    assert model.predict(["zzz"]).tolist() == ["tax_planning"]


def test_coverage_marks_the_texts_that_a_rule_matches():
    model = RulesClassifier().fit(TEXTS, LABELS)
    assert model.coverage(["my tax", "zzz", ""]).tolist() == [True, False, False]


# --- written rules ---------------------------------------------------------------


def test_weights_of_matching_rules_add_up(write_rules):
    model = RulesClassifier(write_rules(TWO_RULES), prior_weight=0).fit(TEXTS, LABELS)
    proba = dict(zip(model.classes_, model.predict_proba(["EMI and Tax"])[0], strict=True))
    assert proba["loan_inquiry"] == pytest.approx(0.75)
    assert proba["tax_planning"] == pytest.approx(0.25)


def test_rules_for_labels_that_were_not_trained_are_left_out(write_rules):
    model = RulesClassifier(write_rules(TWO_RULES)).fit(["tax", "rent"], ["tax_planning", "rent"])
    assert [rule["label"] for rule in model.rules_] == ["tax_planning"]


@pytest.mark.parametrize(
    "line",
    [
        "label = 'a'",
        "pattern = 'a'",
        "label = 'a'\npattern = '(a'",
        "label = 'a'\npattern = 3",
        "label = 'a'\npattern = 'a'\nweight = 'heavy'",
        "label = 'a'\npattern = 'a'\nweight = -1",
        "label = 'a'\npattern = 'a'\nweight = 0",
        "label = 'a'\npattern = 'a'\nweight = nan",
        "label = 'a'\npattern = 'a'\nweight = inf",
        "label = 3\npattern = 'a'",
        "label = 'a'\npattern = '(a?){1000000000}b'",  # fills memory before its time limit
        "label = 'a'\npattern = '((a?){999}){999}b'",
        "label = 'a'\npattern = '(?x)(a{999} ) {999}'",
        "label = 'a'\npattern = '(?:a{999})+{999}'",
        "label = 'a'\npattern = 'a{i}'",
        "label = 'a'\npattern = '(?R)'",
        "label = 'a'\npattern = '(?:(?<x>a(?&x)?))'",
        "label = 'a'\npattern = '(aaaaaaaa){e<=9}'",
        "label = 'a'\npattern = '\\\\p{e<=9}'",  # an escaped backslash, not a property
    ],
)
def test_an_unusable_rule_is_named_by_its_number(write_rules, line):
    path = write_rules(f"{TWO_RULES}\n[[rule]]\n{line}\n")
    with pytest.raises(ModelError, match=r"rules\.toml, rule 3: "):
        read_rules(Path(path))


@pytest.mark.parametrize(
    ("toml", "reason"),
    [("[[rule]", "cannot be read as rules"), ("", "no .* in it"), ("rule = []", "no .* in it")],
)
def test_a_file_without_rules_is_refused(write_rules, toml, reason):
    with pytest.raises(ModelError, match=rf"rules\.toml: {reason}"):
        RulesClassifier(write_rules(toml)).fit(TEXTS, LABELS)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"absent\.toml: cannot be read"):
        RulesClassifier(str(tmp_path / "absent.toml")).fit(TEXTS, LABELS)


def test_a_loaded_model_does_not_need_its_rules_file(write_rules, tmp_path):
    path = write_rules(TWO_RULES)
    saved = RulesClassifier(path).fit(TEXTS, LABELS).save(tmp_path / "model")
    Path(path).unlink()
    assert load_model(saved).predict(["80C?"]).tolist() == ["tax_planning"]


@pytest.mark.parametrize("text", ["bike ", "can i ", "i " * 9, "a" * 99, " ", "salary income "])
def test_the_shipped_rules_answer_ten_megabytes_quickly(text):
    labels = sorted({rule["label"] for rule in read_rules(SHIPPED)})
    model = RulesClassifier(str(SHIPPED)).fit(labels, labels)
    huge = text * (10_000_000 // len(text))
    started = time.perf_counter()
    model.predict_proba([huge])
    assert time.perf_counter() - started < 2


def test_a_pattern_that_would_run_for_ever_is_named(write_rules, monkeypatch):
    monkeypatch.setattr("nivesh_lib.models.text.rules._TIMEOUT_S", 0.05)
    rules = write_rules("[[rule]]\nlabel = 'x'\npattern = '(a|aa)+$'\n")
    model = RulesClassifier(rules_file=rules).fit(["a", "b"], ["x", "y"])
    with pytest.raises(ModelError, match=r"\(a\|aa\)\+.*Rewrite it"):
        model.predict(["a" * 60 + "!"])


@pytest.mark.parametrize(
    "pattern",
    [
        r"\d{1,2}(st|nd)?",
        r"\p{Lu}{3}",
        r"\{R\}",
        r"a{2}b{,3}c{4,}",
        r"tax.{0,20}save.{0,20}80c.{0,20}",
        r"emi.{0,40}(loan|car).{0,40}",
        r"[{(]tax[})]",
        r"for {amount} rupees",
    ],
)
def test_usual_counts_are_no_trouble(write_rules, pattern):
    assert read_rules(Path(write_rules(f"[[rule]]\nlabel = 'x'\npattern = '{pattern}'\n")))


def test_counts_of_many_rules_together_are_bounded(tmp_path):
    model = RulesClassifier().fit(["tax", "rent"], ["x", "y"])
    patterns = [rf"(?:ab?){{1000}}{number}" for number in range(1_000)]
    model.rules_ = [{"label": "x", "pattern": pattern, "weight": 1.0} for pattern in patterns]
    with pytest.raises(ModelError, match=r"rules\.json, rule \d+: .*written out"):
        load_model(model.save(tmp_path / "model"))


def test_what_is_mined_can_be_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr("nivesh_lib.models.text.rules._MAX_RULES", 4)
    texts = ["tax now", "rent due", "x" * 3_000, "y z"]
    model = RulesClassifier().fit(texts, ["a", "b", "a", "b"])
    assert load_model(model.save(tmp_path / "model")).rules_ == model.rules_


def test_many_slow_patterns_share_the_time_of_one(monkeypatch):
    monkeypatch.setattr("nivesh_lib.models.text.rules._TIMEOUT_S", 0.2)
    model = RulesClassifier().fit(["tax", "rent"], ["x", "y"])
    slow = [{"label": "x", "pattern": "(a|aa)+$" + "b?" * n, "weight": 1.0} for n in range(100)]
    model._set_rules(slow)
    started = time.perf_counter()
    with pytest.raises(ModelError, match="took more than"):
        model.predict(["a" * 22 + "!"])  # about a tenth of a second for each pattern
    assert time.perf_counter() - started < 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rules_": [3]}, "rules.json, rule 1"),
        ({"rules_": {"label": "x"}}, "no list"),
        ({"rules_": [{"label": "z", "pattern": "a", "weight": 1.0}]}, "no such label: 'z'"),
        ({"rules_": [{"label": "x", "pattern": "(a?){1000000000}b"}]}, "rule 1.*repeats up to"),
        ({"prior_": np.array([1.0])}, "needs a frequency above 0"),
        ({"prior_": np.array([np.nan, 1.0])}, "needs a frequency above 0"),
        ({"n_keywords": 10**9}, "n_keywords 1000000000 is no number from 0 to 10,000"),
    ],
)
def test_a_saved_state_that_does_not_fit_is_refused(tmp_path, changes, message):
    model = RulesClassifier().fit(["tax", "rent"], ["x", "y"])
    vars(model).update(changes)
    with pytest.raises(ModelError, match=message):
        load_model(model.save(tmp_path / "model"))
