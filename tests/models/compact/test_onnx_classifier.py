from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
from joblib import cpu_count

from nivesh_lib.errors import ModelError
from nivesh_lib.models import directory
from nivesh_lib.models.base import get_model, load_model, prepare
from nivesh_lib.models.compact import onnx_classifier as module
from nivesh_lib.models.compact import onnx_session
from nivesh_lib.models.compact.onnx_classifier import (
    SELF_CHECK_INPUTS,
    TOLERANCE,
    OnnxClassifier,
    _batch_rows,
)
from nivesh_lib.models.compact.onnx_session import _int8_sums_are_exact
from nivesh_lib.models.directory import read_card
from tests.models.conftest import LABELS, QUERIES, TEXTS, logit_gap, small_model, tiny

MANY = TEXTS + QUERIES + ["", "loan " * 500, "[MASK] [PAD] tax", "₹50L का घर"]


@pytest.fixture(scope="module")
def fitted():
    return small_model("transformer").fit(TEXTS, LABELS)


@pytest.fixture(scope="module")
def exported(fitted):
    return {
        precision: OnnxClassifier.of(fitted, precision=precision, texts=TEXTS)
        for precision in module.PRECISIONS
    }


@pytest.fixture
def strange(exported):
    """An int8 model whose self-check fails, as one from another processor."""
    model = copy.copy(exported["int8"])
    model.self_check_ = model.self_check_[:, ::-1].copy()
    model.machine_ = {"model": "Elsewhere", "flags": ["avx2"]}
    return model


# --- answers ---------------------------------------------------------------------


def test_fp32_answers_are_those_of_torch_but_for_rounding(fitted, exported):
    assert logit_gap(fitted, exported["fp32"], MANY) < 1e-4


def test_int8_answers_are_near(fitted, exported):
    assert 0 < logit_gap(fitted, exported["int8"], MANY) < 0.1


@pytest.mark.parametrize(("precision", "largest"), [("fp32", 1e-4), ("int8", 0.05)])
def test_another_family_of_encoders_is_exported_too(precision, largest):
    model = small_model("transformer").set_params(backbone=tiny("distilbert"), epochs=1)
    exported = OnnxClassifier(model, precision=precision).fit(TEXTS, LABELS)
    assert logit_gap(model.fit(TEXTS, LABELS), exported, MANY) < largest


def test_fit_and_of_make_the_same_file(fitted):
    model = OnnxClassifier(small_model("transformer")).fit(TEXTS, LABELS)
    same = OnnxClassifier.of(fitted, texts=TEXTS)
    assert model._session.content == same._session.content


def test_an_int8_model_is_quantized_for_texts_like_those_given(fitted, exported):
    one, other = OnnxClassifier.of(fitted, texts=QUERIES), exported["int8"]
    assert one._session.content != other._session.content
    assert logit_gap(fitted, one, QUERIES) < 0.1
    with pytest.raises(ValueError, match="needs texts"):
        OnnxClassifier.of(fitted)


def test_the_fitted_model_is_left_as_it_was(fitted):
    before = fitted.predict_proba(QUERIES)
    OnnxClassifier.of(fitted, texts=TEXTS)
    np.testing.assert_array_equal(fitted.predict_proba(QUERIES), before)


@pytest.mark.parametrize("precision", module.PRECISIONS)
def test_a_copy_answers_the_same(exported, precision):
    model = exported[precision]
    np.testing.assert_array_equal(
        copy.deepcopy(model).predict_proba(MANY), model.predict_proba(MANY)
    )


def test_int8_answers_depend_on_neighbours_no_more_than_fp32_ones_do(exported):
    model = exported["int8"]
    alone = np.vstack([model.predict_proba([text]) for text in MANY])
    np.testing.assert_allclose(model.predict_proba(MANY), alone, atol=1e-5)


def test_int8_takes_a_fraction_of_the_room(fitted, exported, tmp_path):
    sizes = {}
    for name, model in {"torch": fitted, **exported}.items():
        files = model.save(tmp_path / name).rglob("*")
        sizes[name] = sum(path.stat().st_size for path in files if path.suffix in _WEIGHTS)
    assert sizes["int8"] < sizes["fp32"] - 2 * (sizes["fp32"] - sizes["int8"]) / 3
    assert sizes["int8"] < sizes["torch"]


_WEIGHTS = (".onnx", ".safetensors")


def test_small_weights_beside_ones_on_the_diagonal_are_kept(fitted, exported):
    # Beside the ones of an identity pooler, eight bits have no step below 0.008.
    weight = fitted.network.model.base_model.pooler.dense.weight.detach().numpy()
    rest = weight - np.diag(np.diag(weight))
    assert np.abs(np.diag(weight)).min() > 5 * np.abs(rest).max()
    found = _initializers(exported["int8"])
    kept = next(name for name in found if name.endswith("_diagonal"))
    rows = found[kept.replace("_diagonal", "_int8")] * found[kept.replace("_diagonal", "_scales")]
    np.testing.assert_allclose(rows, rest, atol=np.abs(rest).max() / 100)


def _initializers(model):
    import onnx
    from onnx import numpy_helper

    graph = onnx.load_from_string(model._session.content).graph
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


# --- what is refused -------------------------------------------------------------


def test_an_unknown_precision_is_refused(fitted):
    with pytest.raises(ValueError, match="'int4' is not one of int8, fp32"):
        OnnxClassifier.of(fitted, precision="int4")


def test_only_a_transformer_is_exported():
    with pytest.raises(ValueError, match="'rules' is not exported"):
        OnnxClassifier(get_model("rules")).fit(TEXTS, LABELS)


# --- saved and loaded ------------------------------------------------------------


def test_a_loaded_model_needs_no_torch(exported, tmp_path):
    folder = exported["int8"].save(tmp_path / "model")
    code = (
        "import json, sys\n"
        "from nivesh_lib.models.base import load_model\n"
        "labels = load_model(sys.argv[1]).predict(json.loads(sys.argv[2])).tolist()\n"
        "heavy = {'torch', 'transformers', 'onnx'} & set(sys.modules)\n"
        "print(json.dumps([labels, sorted(heavy)]))"
    )
    command = [sys.executable, "-c", code, str(folder), json.dumps(QUERIES)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert json.loads(told) == [exported["int8"].predict(QUERIES).tolist(), []]


def test_the_card_keeps_the_machine_and_its_self_check(exported, tmp_path):
    state = read_card(exported["int8"].save(tmp_path / "model"))["state"]
    assert set(state["machine"]) == {"model", "flags"}
    expected = exported["int8"].predict_proba(SELF_CHECK_INPUTS)
    np.testing.assert_array_equal(state["probes"], expected)


def test_no_self_check_input_is_changed_by_anonymisation():
    assert [prepare(text) for text in SELF_CHECK_INPUTS] == list(SELF_CHECK_INPUTS)


def test_answers_that_differ_from_the_self_check_are_refused_with_both_machines(strange, tmp_path):
    folder = strange.save(tmp_path / "model")
    with pytest.raises(
        ModelError, match=r"differ on this machine.*Elsewhere with avx2.*Export again"
    ):
        load_model(folder)


def edited(folder, **params):
    """Change arguments in a card as somebody who knows the format would."""
    card = json.loads((folder / "model.json").read_text("utf-8"))
    card["params"] |= params
    card["sha256"] = directory.card_sha256(card)
    (folder / "model.json").write_text(json.dumps(card), "utf-8")
    return folder


def test_the_fallback_answers_where_int8_answers_differ(fitted, exported, strange, tmp_path):
    strange.fallback = str(exported["fp32"].save(tmp_path / "exact"))
    folder = strange.save(tmp_path / "model")
    shutil.rmtree(tmp_path / "exact")
    with pytest.warns(UserWarning, match=r"differ on this machine.*fallback answers instead"):
        loaded = load_model(folder.rename(tmp_path / "moved"))
    assert loaded._fallback_model
    np.testing.assert_allclose(loaded.predict_proba(MANY), fitted.predict_proba(MANY), atol=1e-5)
    loaded.save(tmp_path / "again")
    assert read_card(tmp_path / "again")["params"]["fallback"] == "fallback"


def test_any_model_of_the_same_classes_may_be_the_fallback(fitted, strange, tmp_path):
    other = get_model("calibrated", model=get_model("tfidf")).fit(TEXTS, LABELS)
    strange.fallback = str(other.save(tmp_path / "other"))
    with pytest.warns(UserWarning, match="fallback answers instead"):
        loaded = load_model(strange.save(tmp_path / "model"))
    np.testing.assert_array_equal(loaded.predict_proba(MANY), other.predict_proba(MANY))


def test_a_fallback_stays_away_while_it_is_not_needed(exported, tmp_path):
    model = copy.copy(exported["int8"])
    model.fallback = str(exported["fp32"].save(tmp_path / "exact"))
    loaded = load_model(model.save(tmp_path / "model"))
    assert loaded._fallback_model is None


@pytest.mark.parametrize("place", ["../exact", "~/exact", "{}/exact", "."])
def test_a_fallback_outside_the_model_is_not_read(exported, strange, tmp_path, place):
    exported["fp32"].save(tmp_path / "exact")
    folder = strange.save(tmp_path / "model")
    edited(folder, fallback=place.format(tmp_path))
    with pytest.raises(ModelError, match=r"differ on this machine.*fallback .*lies outside"):
        load_model(folder)


def test_a_fallback_outside_the_model_is_no_matter_while_it_is_not_needed(exported, tmp_path):
    folder = edited(exported["int8"].save(tmp_path / "model"), fallback="../exact")
    assert load_model(folder)._fallback_model is None


def test_a_fallback_that_cannot_serve_is_refused_when_the_model_is_saved(
    exported, strange, tmp_path
):
    few = get_model("tfidf").fit(TEXTS[4:], LABELS[4:]).save(tmp_path / "few")
    int8 = exported["int8"].save(tmp_path / "int8")
    for fallback, why in {
        few: "classes",
        int8: "name an fp32 model",
        "nowhere": "no model",
    }.items():
        strange.fallback = str(fallback)
        with pytest.raises(ModelError, match=why):
            strange.save(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_little_rounding_is_no_difference(exported, tmp_path):
    model = copy.copy(exported["int8"])
    model.self_check_ = model.self_check_ + 0.9 * TOLERANCE
    assert load_model(model.save(tmp_path / "model"))._fallback_model is None


# --- the session ---------------------------------------------------------------------


@pytest.mark.parametrize("count", ["1", "2", "7"])
def test_texts_are_answered_as_each_would_be_alone(exported, monkeypatch, count):
    monkeypatch.setenv("NIVESH_THREADS", count)
    model = copy.deepcopy(exported["fp32"])
    alone = np.concatenate([model.predict_proba([text]) for text in MANY])
    np.testing.assert_allclose(model.predict_proba(MANY), alone, atol=1e-5)


@pytest.mark.parametrize(
    ("n_texts", "max_parallel", "expected"),
    [(1, 2, 8), (8, 2, 8), (9, 2, 5), (23, 2, 6), (160, 2, 8), (23, 1, 8), (20, 16, 2)],
)
def test_threads_share_a_file_evenly(n_texts, max_parallel, expected):
    assert _batch_rows(n_texts, max_parallel) == expected


def test_more_threads_than_cores_are_not_used(exported, monkeypatch):
    monkeypatch.setenv("NIVESH_THREADS", "99999999999")
    session = copy.deepcopy(exported["fp32"])._session
    assert session.max_parallel == cpu_count()


def test_a_session_sends_nothing_and_keeps_nothing_at_home(exported, tmp_path):
    exported["fp32"].save(tmp_path / "model")
    lines = (
        f"from nivesh_lib.models.base import load_model; load_model({str(tmp_path / 'model')!r})"
    )
    home = tmp_path / "home"
    home.mkdir()
    left_out = ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")
    environment = {k: v for k, v in os.environ.items() if k not in left_out}
    subprocess.run([sys.executable, "-c", lines], check=True, env=environment | {"HOME": str(home)})
    assert not [path for path in home.rglob("*") if "onnxruntime" in str(path)]


def test_each_thread_has_a_batch_of_its_own(exported, monkeypatch):
    class Meeting:
        both = threading.Barrier(2, timeout=10)  # breaks where one runs after the other

        def run(self, names, fed):
            self.both.wait()
            return [fed["ids"].sum()]

    monkeypatch.setenv("NIVESH_THREADS", "2")
    session = copy.deepcopy(exported["fp32"])._session
    monkeypatch.setattr(session, "_single_threaded", Meeting())
    one = np.ones((1, 3), dtype=np.int64)
    assert session.run_batches([{"ids": n * one, "mask": one} for n in range(4)]) == [0, 3, 6, 9]


@pytest.mark.parametrize(
    ("flags", "exact"),
    [(["avx2"], False), (["avx2", "avx_vnni"], True), (["avx2", "avx512_vnni"], True), ([], True)],
)
def test_the_way_around_overflow_is_for_processors_that_need_it(monkeypatch, flags, exact):
    monkeypatch.setattr(
        "nivesh_lib.models.compact.onnx_session.machine", lambda: {"model": "", "flags": flags}
    )
    assert _int8_sums_are_exact() is exact


def test_the_way_around_changes_no_answer(exported, monkeypatch):
    monkeypatch.setattr(onnx_session, "_int8_sums_are_exact", lambda: False)
    around = copy.deepcopy(exported["int8"]).predict_proba(MANY)
    np.testing.assert_allclose(around, exported["int8"].predict_proba(MANY), atol=1e-5)
