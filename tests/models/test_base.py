from __future__ import annotations

import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from nivesh_lib.errors import ModelError
from nivesh_lib.models import base, directory
from nivesh_lib.models.base import get_model, load_model, load_with_card
from nivesh_lib.models.directory import MODELS, model_hash, read_card
from nivesh_lib.models.wrappers.selective import Calibrated

from .conftest import LABELS, TEXTS, small_model

FROZEN = Path(__file__).resolve().parents[1] / "frozen"


@pytest.fixture
def model():
    return get_model("rules").fit(TEXTS, LABELS)


@pytest.fixture
def folder(model, tmp_path):
    return model.save(tmp_path / "model")


def edit(folder, **changes):
    """Change the card as somebody who knows the format would: with a checksum that fits."""
    path = folder / "model.json"
    card = json.loads(path.read_text("utf-8")) | changes
    path.write_text(json.dumps(card | {"sha256": directory.card_sha256(card)}), "utf-8")


def leave_a_listed_pickle(folder):
    (folder / "weights.pkl").write_bytes(pickle.dumps([1]))
    edit(folder, files=read_card_files(folder) | {"weights.pkl": "0" * 64})


def read_card_files(folder):
    return json.loads((folder / "model.json").read_text("utf-8"))["files"]


# --- the registry ----------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(MODELS))
def test_a_kind_is_registered_under_its_own_name(kind):
    assert get_model(kind).kind == kind


def test_an_unknown_kind_is_refused_with_those_there_are():
    with pytest.raises(ModelError, match=r"'bert'; there are: .*tfidf"):
        get_model("bert")


def test_an_unknown_argument_is_refused():
    with pytest.raises(TypeError, match="depth"):
        get_model("tfidf", depth=3)


# --- saving ----------------------------------------------------------------------


def test_the_card_holds_kind_classes_data_and_more(model, tmp_path):
    card = read_card(model.save(tmp_path / "m", data="intents@1.1.0", about={"step": "02"}))
    assert (card["kind"], card["data"], card["about"]) == ("rules", "intents@1.1.0", {"step": "02"})
    assert card["classes"] == sorted(set(LABELS))


def test_parents_are_made_and_the_path_is_returned(model, tmp_path):
    target = tmp_path / "a" / "b" / "model"
    assert model.save(str(target)) == target
    assert sorted(path.name for path in target.parent.iterdir()) == ["model"]


def test_saving_again_replaces_the_whole_directory(folder):
    get_model("tfidf").fit(TEXTS, LABELS).save(folder)
    assert load_model(folder).kind == "tfidf"
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()], ids=repr)
def test_an_interrupted_save_leaves_nothing(model, tmp_path, monkeypatch, error):
    def write_half(directory):
        (directory / "rules.json").write_text("[")
        raise error

    monkeypatch.setattr(model, "_dump", write_half)
    with pytest.raises(type(error)):
        model.save(tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_an_interrupted_save_leaves_the_older_model(model, folder):
    with pytest.raises(TypeError):
        model.save(folder, about={"not json": object()})
    assert load_model(folder).predict(TEXTS).tolist() == LABELS
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_a_directory_of_other_things_is_not_overwritten(model, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ModelError, match="is no model"):
        model.save(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_an_empty_directory_is_taken(model, tmp_path):
    (tmp_path / "model").mkdir()
    assert load_model(model.save(tmp_path / "model")).kind == "rules"


# --- loading ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["nowhere", "model/rules.json"])
def test_what_is_no_model_directory_is_named(folder, name):
    with pytest.raises(ModelError, match=f"{name}: no model.json here"):
        load_model(folder.parent / name)


@pytest.mark.parametrize(
    "text", ["{", "", "[]", "3", '{"kind": "rules"}', '{"files": 3}', "\x80", "[" * 100_000]
)
def test_a_broken_description_is_named(folder, text):
    (folder / "model.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ModelError, match=r"model\.json: not a model description"):
        load_model(folder)


@pytest.mark.parametrize("change", [{"kind": "os:system"}, {"format": 99}, {"format": None}])
def test_an_unknown_kind_or_format_is_refused(folder, change):
    edit(folder, **change)
    with pytest.raises(ModelError, match=r"model\.json: kind .* is not known here"):
        load_model(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"params": {"depth": 3}},
        {"params": None},
        {"params": {"rules_file": 3, "n_keywords": []}, "state": []},
        {"state": {}},
        {"state": {"prior": [[1.0]]}},
        {"classes": 3},
        {"classes": ["x", "y", "z"]},
    ],
    ids=str,
)
def test_a_description_that_does_not_fit_its_class_is_refused(folder, change):
    edit(folder, **change)
    with pytest.raises(ModelError, match=f"{folder.name}: (does not load|its classes do not fit)"):
        load_model(folder)


@pytest.mark.parametrize("kind", sorted(MODELS))
def test_a_model_with_a_class_too_many_is_refused(kind, tmp_path):
    folder = small_model(kind).fit(TEXTS, LABELS).save(tmp_path / "model")
    edit(folder, classes=[*sorted(set(LABELS)), "zzz"])
    with pytest.raises(ModelError, match=r"does not load|do not fit its weights"):
        load_model(folder)


def test_a_description_that_was_changed_is_refused(folder):
    path = folder / "model.json"
    path.write_text(path.read_text("utf-8").replace('"tax_planning"', '"loan_planning"'), "utf-8")
    with pytest.raises(ModelError, match=r"model\.json: changed since it was saved"):
        load_model(folder)


def test_a_file_that_is_not_listed_is_refused(folder):
    (folder / "extra.json").write_text("{}")
    with pytest.raises(ModelError, match=r"extra\.json: not listed"):
        load_model(folder)


@pytest.mark.parametrize("name", ["model.pkl", "weights.pt", "hook.py", ".DS_Store", "joblib"])
def test_a_file_that_could_run_code_is_refused(folder, name):
    (folder / name).write_bytes(pickle.dumps([1]))
    with pytest.raises(ModelError, match=f"{name}: .* could run code"):
        load_model(folder)


def test_a_pickle_is_refused_even_when_it_is_listed(folder):
    leave_a_listed_pickle(folder)
    with pytest.raises(ModelError, match=r"weights\.pkl: .* could run code"):
        load_model(folder)


@pytest.mark.parametrize("name", ["../outside.json", "/etc/outside.json", "sub/../../x.json"])
def test_a_file_outside_the_directory_is_refused(folder, name):
    edit(folder, files=read_card_files(folder) | {name: "0" * 64})
    with pytest.raises(ModelError, match="is refused"):
        load_model(folder)


def test_a_file_in_a_folder_of_the_model_is_checked_like_any_other(folder):
    (folder / "sub").mkdir()
    (folder / "sub" / "extra.json").write_text("{}")
    with pytest.raises(ModelError, match=r"sub/extra\.json: not listed"):
        load_model(folder)


def test_a_save_that_fails_at_the_last_step_brings_the_older_model_back(model, folder, monkeypatch):
    rename = Path.rename

    def full(path, target):
        if path.name == "model" and path.parent != folder.parent:
            raise OSError(28, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(OSError, match="No space left"):
        model.save(folder)
    assert load_model(folder).predict(TEXTS).tolist() == LABELS
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_what_a_killed_save_put_aside_is_replaced_by_the_next_one(model, folder):
    folder.rename(folder.with_name(".model.old"))
    model.save(folder)
    assert load_model(folder).predict(TEXTS).tolist() == LABELS
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_many_may_save_to_one_place(model, tmp_path):
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: model.save(tmp_path / "model"), range(400)))
    assert load_model(tmp_path / "model").predict(TEXTS).tolist() == LABELS
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_model_is_loaded_while_another_takes_its_place(tmp_path):
    model = get_model("tfidf").fit(TEXTS, LABELS)
    folder = model.save(tmp_path / "model")
    with ThreadPoolExecutor(2) as pool:
        saved = pool.submit(lambda: [model.save(folder) for _ in range(100)])
        while not saved.done():
            assert load_model(folder).predict(TEXTS).tolist() == LABELS


def test_a_directory_without_a_name_is_refused(model):
    with pytest.raises(ModelError, match="Name one"):
        model.save(".")


def test_a_file_that_cannot_be_read_is_named(folder, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(directory, "sha256_file", refuse)
    with pytest.raises(ModelError, match=r"rules\.json: cannot be read \(Permission denied"):
        load_model(folder)


def test_a_failure_deep_inside_is_tried_once(tmp_path, monkeypatch):
    model = get_model("rules").fit(TEXTS, LABELS)
    for _ in range(directory.MAX_DEPTH):
        model = Calibrated.of(model, temperature=2.0)
    folder = model.save(tmp_path / "model")
    tried = []

    def broken(self, directory, state):
        tried.append(directory)
        raise ValueError("broken")

    monkeypatch.setattr(type(get_model("rules")), "_restore", broken)
    with pytest.raises(ModelError, match=r"does not load .*broken"):
        load_model(folder)
    assert len(tried) == 1


def test_a_model_that_would_not_be_loaded_is_not_saved(model, tmp_path, monkeypatch):
    deep = model
    for _ in range(directory.MAX_DEPTH + 1):
        deep = Calibrated.of(deep, temperature=2.0)
    with pytest.raises(ModelError, match="up to 9 inside each other; at most 24 and 8"):
        deep.save(tmp_path / "deep")
    monkeypatch.setattr(directory, "MAX_MODEL_BYTES", 10)
    with pytest.raises(ModelError, match="a model at most 10"):
        model.save(tmp_path / "large")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("kind", "params"),
    [
        ("lstm", {"hidden": 10**9}),
        ("lstm", {"dropout": 1.5}),
        ("lstm", {"epochs": 2.5}),
        ("transformer", {"max_length": 0}),
        ("transformer", {"learning_rate": float("nan")}),
        ("embedding", {"max_length": "128"}),
        ("abstaining", {"max_length": 10**9}),
    ],
)
def test_an_argument_out_of_range_is_refused_before_fitting(kind, params):
    with pytest.raises(ValueError, match=f"{next(iter(params))} .* is no number from"):
        get_model(kind, **params).fit(TEXTS, LABELS)


def test_numbers_of_numpy_are_saved_as_plain_ones(model, tmp_path):
    model.set_params(random_state=np.int64(7)).save(tmp_path / "other")
    assert load_model(tmp_path / "other").random_state == 7


def test_a_model_with_nan_probabilities_is_not_loaded(model, folder, monkeypatch):
    monkeypatch.setattr(type(model), "_proba", lambda *_: np.full((1, 2), np.nan))
    with pytest.raises(ModelError, match="not finite"):
        load_model(folder)


# --- identity and earlier releases -------------------------------------------------


def test_the_hash_is_that_of_the_card_without_what_made_it(model, tmp_path):
    first = model.save(tmp_path / "a", data="intents@1.1.0", about={"run": "1"})
    second = model.save(tmp_path / "b", data="intents@1.1.0", about={"run": "2"})
    other = model.save(tmp_path / "c", data="intents@1.0.0")
    assert model_hash(first) == model_hash(read_card(second)) != model_hash(other)


def test_model_and_card_come_from_one_reading(folder, monkeypatch):
    read = []
    monkeypatch.setattr(base, "read_card", lambda path: read.append(path) or read_card(path))
    loaded, card = load_with_card(folder)
    assert (loaded.kind, card) == (card["kind"], read_card(folder)) and read == [folder]


@pytest.mark.parametrize(
    ("kind", "instead"),
    [
        ("onnx_tfidf", "train a tfidf model"),
        ("quantized", "OnnxClassifier"),
        ("remembering", "folder 'model'"),
    ],
)
@pytest.mark.parametrize("read", [read_card, load_model])
def test_a_model_of_a_removed_kind_is_refused_with_what_to_use_instead(read, kind, instead):
    folder = FROZEN / "deleted_models" / kind
    with pytest.raises(ModelError, match=f"kind '{kind}' are no longer supported; .*{instead}"):
        read(folder)


def test_arguments_of_earlier_releases_have_their_present_names():
    folder = FROZEN / "models" / "transformer"
    saved, loaded = read_card(folder)["params"], load_model(folder)
    assert saved["direct"] is loaded.identity_pooler is True
    assert saved["slips"] == loaded.typo_rate == 0.1
