from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from nivesh_lib.data.splits import NEAR, mask_amounts, near_duplicate_pairs
from nivesh_lib.data.versions import load_dataset
from nivesh_lib.errors import DataError
from nivesh_lib.evaluation.resampling.cross_validation import CASE_COLUMNS, EVERY_FOLD
from nivesh_lib.evaluation.robustness.cases import (
    EN,
    HINGLISH,
    INTRODUCED,
    OUT_OF_SCOPE,
    OWN_WISH,
    RULED_OUT,
    TAKEN_BACK,
    answers_by_target,
    answers_to,
    person_cases,
    perturbation_cases,
    read_case_texts,
    sample_rows,
    standard_cases,
    wish_cases,
)
from nivesh_lib.privacy import anonymize_query

DATASET = "intents@1.1.0"


@pytest.fixture(scope="module")
def data():
    return load_dataset(DATASET)


@pytest.fixture(scope="module")
def texts():
    return read_case_texts(DATASET)


@pytest.fixture(scope="module")
def cases(data, texts):
    out_of_scope = load_dataset(texts.out_of_scope).train
    return standard_cases(data.train, texts=texts, out_of_scope=out_of_scope, seed=1)


def test_a_transformer_can_answer_all_of_them_in_seconds(data, cases):
    each = (cases["fold"] == EVERY_FOLD) * (data.n_folds - 1) + 1
    assert list(cases) == list(CASE_COLUMNS)
    assert 4500 < each.sum() < 5500


def test_a_case_of_a_row_goes_to_the_fold_of_that_row_and_only_natural_rows_are_drawn(data, cases):
    rows = data.train.set_index("id")
    mine = cases[cases["fold"] != EVERY_FOLD]
    assert (rows.loc[mine["id"], "fold"].to_numpy() == mine["fold"]).all()
    assert (rows.loc[mine["id"], "selection"] == "natural").all()


def test_the_same_seed_gives_the_same_cases_and_another_seed_others(data, texts, cases):
    out_of_scope = load_dataset(texts.out_of_scope).train
    again, other = (
        standard_cases(data.train, texts=texts, out_of_scope=out_of_scope, seed=seed)
        for seed in (1, 2)
    )
    pd.testing.assert_frame_equal(again, cases)
    assert set(other["query"]) != set(cases["query"])


def test_no_id_occurs_twice_in_one_test(cases):
    assert not cases.duplicated(["probe", "id"]).any()


def test_a_perturbation_that_changes_nothing_is_left_out(data, cases):
    written = cases["id"].map(dict(zip(data.train["id"], data.train["query"], strict=True)))
    assert not (written == cases["query"]).any()


def test_models_see_the_names_and_places_since_only_identifiers_are_anonymised(cases):
    people = cases.loc[cases["probe"].str.startswith("person: "), "query"]
    assert (people.map(anonymize_query) == people).all()


@pytest.mark.parametrize(
    ("other", "differs"),
    [
        ("person: another name", 2),
        ("person: other gender", 2),
        ("person: other community", 2),
        ("person: other region", 4),
        ("person: large city", 4),
    ],
)
def test_people_differ_in_one_word(data, other, differs):
    cases = person_cases(data.train.head(50), seed=3)
    first, second = (answers_to(cases, name)["query"].str.split() for name in (INTRODUCED, other))
    for a, b in zip(first, second, strict=True):
        assert [n for n, (x, y) in enumerate(zip(a, b, strict=True)) if x != y] == [differs]


def test_wishes_go_to_their_own_intent_and_what_is_ruled_out_is_never_it(data, texts):
    rows = data.train.head(100)
    intent = dict(zip(rows["id"], rows["intent"], strict=True))
    cases = wish_cases(rows, texts, seed=0)
    own = answers_to(cases, OWN_WISH)
    wishes = own["id"].map(intent).map(texts.wishes)
    assert all(q.endswith(wish) for q, wish in zip(own["query"], wishes, strict=True))
    for prefix in (RULED_OUT, TAKEN_BACK):
        found = answers_by_target(cases, prefix)
        assert len(found) == 100 and (found["target"] != found["id"].map(intent)).all()


def test_without_texts_and_other_sets_there_are_only_cases_of_rows(data):
    bare = standard_cases(data.train[["id", "query", "intent", "fold"]], n=20)
    assert (bare["fold"] != EVERY_FOLD).all()
    assert not bare["probe"].str.contains("wish|ruled|paraphrase|scope").any()


@pytest.mark.parametrize("n", [1, 3])
def test_few_rows_without_any_amount_are_enough(n):
    frame = pd.DataFrame({"id": ["a", "b", "c"], "query": "sip", "intent": "x", "fold": [0, 1, 2]})
    assert len(standard_cases(frame, n=n)) >= 8 * n


def test_no_more_rows_are_drawn_than_there_are():
    frame = pd.DataFrame({"id": [1, 2, 3], "selection": ["natural", "hard", "natural"]})
    assert sample_rows(frame, n=10, seed=0)["id"].tolist() == [1, 3]


def test_other_perturbations_may_be_given():
    frame = pd.DataFrame({"id": [1, 2], "query": ["ab", "aa"], "fold": [0, 1]})
    cases = perturbation_cases(frame, {"reversed": lambda text, rng: text[::-1]})
    assert cases.to_numpy().tolist() == [["view: reversed", 1, 0, "ba"]]


# --- the file of intents -----------------------------------------------------------------------


def test_each_intent_has_its_sentences_and_pairs(data, texts):
    labels = set(data.labels)
    assert set(texts.wishes) == set(texts.ruled_out) == labels
    assert set(texts.paraphrases["intent"]) == labels and len(texts.paraphrases) == 40


def test_no_authored_text_is_nearly_a_training_row_or_another_one(data, texts):
    written = [*texts.paraphrases["en"], *texts.paraphrases["hinglish"]]
    both = [mask_amounts(text) for text in [*written, *data.train["query"]]]
    near = near_duplicate_pairs(both, NEAR - 0.15)  # further away than versions ask for
    assert [(both[i], both[j]) for i, j, _ in near if i < len(written)] == []


def test_authored_texts_and_queries_of_no_intent_are_for_the_models_of_all_folds(texts, cases):
    cases = cases[cases["probe"].isin([EN, HINGLISH, OUT_OF_SCOPE])]
    assert (cases["fold"] == EVERY_FOLD).all()
    assert cases.groupby("probe").size().to_dict() == {EN: 40, HINGLISH: 40, OUT_OF_SCOPE: 435}


def test_another_dataset_has_no_such_texts(tmp_path, monkeypatch):
    monkeypatch.setenv("NIVESH_HOME", str(tmp_path))
    texts = read_case_texts("mine@1.0.0")
    assert (texts.out_of_scope, len(texts.wishes), len(texts.paraphrases)) == ("", 0, 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("wishes =", "cannot be read"),
        ("[wishes]\nsave = 1", "tables .wishes. and .ruled_out. of sentences"),
        ('[[paraphrase]]\nintent = "save"\nen = "x"', "with intent, en and hinglish"),
    ],
)
def test_a_broken_file_is_refused_with_its_place(tmp_path, monkeypatch, content, message):
    monkeypatch.setenv("NIVESH_HOME", str(tmp_path))
    path = Path(tmp_path) / "data" / "mine" / "probes.toml"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with pytest.raises(DataError, match=rf"mine/probes.toml: .*{message}"):
        read_case_texts("mine@1.0.0")
