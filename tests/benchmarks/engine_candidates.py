"""What `make bench-engines` measures: one transformer's weights in each engine, and small models.

An engine answers texts; an artefact is the folder that it needs for that, made once and weighed.
Peers are used as their own pages show, with the settings that are named here and no others. They
read a text in the way that ours do (`prepare`, `glossed`, tokens of the tokenizers library), or
their labels could not agree. What they need beyond the project is the extra ``bench``.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nivesh_lib.evaluation.compression.cascade import choose_threshold
from nivesh_lib.evaluation.resampling.cross_validation import (
    cross_validate,
    fold_directory,
    out_of_fold,
    predicted_labels,
)
from nivesh_lib.evaluation.scores import headline_mask
from nivesh_lib.models.base import get_model, load_model, prepare
from nivesh_lib.models.neural.tokenizer import SubwordTokenizer, padded
from nivesh_lib.models.text.hinglish import extended, glossed
from tests.benchmarks.peer_data import Labelled, intents

FP32 = "transformer"  # the artefact whose weights all engines answer with
SEED_WIDTH = 128  # tokens to which the guide's code pads each text
FILE_ROWS = 32  # rows of a file that a peer gets at once
CALIBRATION_ROWS = 300  # nncf's own default
CASCADE_LOSS = 0.002  # of accuracy, that the cascade's threshold may cost
LOST_ELSEWHERE = "points lost on the other folds"
ROWS_ELSEWHERE = "rows of these"


@dataclass(frozen=True)
class Order:
    """What artefacts are made of: the folder of them all, rows, and a few settings.

    ``judged`` is the fold that ``train`` lacks: the cascade's threshold is chosen on the others.
    Where it is None, ``threshold`` is taken as it is.
    """

    root: Path
    train: Labelled
    epochs: int
    judged: int | None = None
    threshold: float = 0.9
    calibration: int = CALIBRATION_ROWS


@dataclass(frozen=True)
class Artefact:
    """A folder to make, what it is made from, and the packages and modules that takes."""

    make: Callable[[Order, Path], None]
    after: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Loaded:
    """An engine that is ready. ``read`` is what comes before the network, where it can be told.

    ``file_rows`` are the rows that it is given at once of a file, 0 for all of them; ``facts``
    tells more that a reader of the figures needs.
    """

    predict: Callable[[list[str]], Iterable[str]]
    read: Callable[[list[str]], Any] | None = None
    file_rows: int = FILE_ROWS
    facts: Callable[[list[str]], dict[str, float]] | None = None


@dataclass(frozen=True)
class Engine:
    """``load(folder, threads)`` makes its artefact ready in a process of its own."""

    name: str
    about: str
    artefact: str
    load: Callable[[Path, int], Loaded]
    needs: tuple[str, ...] = ()
    ours: bool = False
    floor: bool = True  # whether it computes the whole network for each text
    batches: tuple[int, ...] = (1, 8, 32)


def missing(engine: Engine) -> list[str]:
    """Return the packages and modules that an engine and its artefacts need and that are absent."""
    found, queue = list(engine.needs), [engine.artefact]
    while queue:
        artefact = artefacts()[queue.pop()]
        found += artefact.needs
        queue += artefact.after
    return sorted({name for name in found if not _present(name)})


def _present(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # of a package above it
        return False


def wanted(engines: Sequence[Engine]) -> list[str]:
    """Return the artefacts that engines need, each after those it is made from."""
    ordered: list[str] = []

    def add(name: str) -> None:
        for before in artefacts()[name].after:
            add(before)
        if name not in ordered:
            ordered.append(name)

    add(FP32)
    for engine in engines:
        add(engine.artefact)
    return ordered


def artefacts() -> dict[str, Artefact]:
    """Return every artefact by name."""
    ours_onnx = "nivesh_lib.models.compact.onnx_classifier"
    return {
        FP32: Artefact(_make_transformer),
        "torch-int8": Artefact(_make_torch_int8, (FP32,)),
        "torch-bf16": Artefact(_make_torch_bf16, (FP32,)),
        "onnx": Artefact(_make_onnx, (FP32,)),
        "onnx-int8": Artefact(_make_onnx_int8, ("onnx",)),
        "openvino-int8": Artefact(_make_openvino_int8, ("onnx",), ("openvino", "nncf")),
        "ours-fp32": Artefact(_make_ours("fp32"), (FP32,), (ours_onnx,)),
        "other-folds": Artefact(_make_other_folds, (), (ours_onnx,)),
        "ours-int8": Artefact(_make_ours("int8"), (FP32, "other-folds"), (ours_onnx,)),
        "static": Artefact(_make_static),
        "cascade": Artefact(
            _make_cascade, ("static", "ours-int8"), ("nivesh_lib.models.wrappers.cascade",)
        ),
        "tfidf": Artefact(_make_tfidf),
        "sklearn": Artefact(_make_sklearn),
    }


def engines() -> dict[str, Engine]:
    """Return every engine by name: peers, then ours."""
    return {one.name: one for one in (*_peers(), *_ours())}


def _peers() -> list[Engine]:
    openvino = ("openvino",)
    return [
        Engine("torch-fp32", "transformers, eager, SDPA, fp32", FP32, _load_torch()),
        Engine("torch-int8", "torch.ao quantize_dynamic, linears", "torch-int8", _load_pickled),
        Engine("torch-bf16", "transformers, bf16 weights", "torch-bf16", _load_torch("bfloat16")),
        Engine(
            "seed-path",
            f"the guide's: fp32, padded to {SEED_WIDTH}, 32 rows",
            FP32,
            _load_torch(width=SEED_WIDTH),
            batches=(1, 32),
        ),
        Engine("ort-fp32", "ONNX Runtime, plain legacy export", "onnx", _load_onnxruntime),
        Engine(
            "ort-int8",
            "ONNX Runtime, quantize_dynamic(per_channel=True)",
            "onnx-int8",
            _load_onnxruntime,
        ),
        Engine("openvino-fp32", "OpenVINO, precision f32", "onnx", _load_openvino("f32"), openvino),
        Engine(
            "openvino-bf16", "OpenVINO, precision bf16", "onnx", _load_openvino("bf16"), openvino
        ),
        Engine(
            "openvino-int8",
            "OpenVINO, nncf.quantize, its own precision for the rest",
            "openvino-int8",
            _load_openvino(),
        ),
        Engine(
            "sklearn",
            "Pipeline: the n-grams of tfidf, logistic regression",
            "sklearn",
            _load_sklearn,
            floor=False,
        ),
    ]


def _ours() -> list[Engine]:
    def engine(name: str, about: str, artefact: str, *, floor: bool) -> Engine:
        return Engine(name, f"ours: {about}", artefact, _load_ours, ours=True, floor=floor)

    return [
        engine("transformer", "as trained, torch", FP32, floor=True),
        engine("ours-fp32", "kind onnx, fp32", "ours-fp32", floor=True),
        engine("ours-int8", "kind onnx, int8", "ours-int8", floor=True),
        engine("static", "scores of tokens, learned from labels", "static", floor=False),
        engine("cascade", "static, and ours-int8 where it is unsure", "cascade", floor=False),
        engine("tfidf", "word and character n-grams", "tfidf", floor=False),
    ]


# --- artefacts ---------------------------------------------------------------------------------


def _make_transformer(order: Order, target: Path) -> None:
    model = get_model("transformer", epochs=order.epochs)
    model.fit(order.train.texts, order.train.labels).save(target)


def _make_torch_int8(order: Order, target: Path) -> None:
    import warnings

    import torch

    model = _pretrained(order.root / FP32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that torch.ao will move
        small = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
        torch.save(small, _folder(order, target) / "model.pt")


def _make_torch_bf16(order: Order, target: Path) -> None:
    _pretrained(order.root / FP32, "bfloat16").save_pretrained(_folder(order, target))


def _make_onnx(order: Order, target: Path) -> None:
    import warnings

    import torch

    class Logits(torch.nn.Module):
        def __init__(self, model: Any) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: Any, mask: Any) -> Any:
            return self.model(input_ids=ids, attention_mask=mask).logits

    # Eager attention: of the legacy exports, the faster one in ONNX Runtime.
    network = Logits(_pretrained(order.root / FP32, attention="eager")).eval()
    ids = torch.ones(2, 8, dtype=torch.int64)
    axes = {name: {0: "batch", 1: "length"} for name in ("ids", "mask")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the export's own, of tracing and deprecation
        torch.onnx.export(
            network,
            (ids, torch.ones_like(ids)),
            str(_folder(order, target) / "model.onnx"),
            input_names=["ids", "mask"],
            output_names=["logits"],
            dynamic_axes={**axes, "logits": {0: "batch"}},
            opset_version=17,
            dynamo=False,
        )


def _make_onnx_int8(order: Order, target: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic

    source = order.root / "onnx" / "model.onnx"
    quantize_dynamic(source, _folder(order, target) / "model.onnx", per_channel=True)


def _make_openvino_int8(order: Order, target: Path) -> None:
    import nncf
    import openvino

    read = _Reader(order.root / FP32, order.root / FP32)
    rows = [read([text]) for text in order.train.texts[: order.calibration]]
    model = openvino.Core().read_model(order.root / "onnx" / "model.onnx")
    quantized = nncf.quantize(
        model,
        nncf.Dataset([{"ids": ids, "mask": mask} for ids, mask in rows]),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=order.calibration,
    )
    openvino.save_model(quantized, _folder(order, target) / "model.xml", compress_to_fp16=False)


def _make_ours(precision: str) -> Callable[[Order, Path], None]:
    def make(order: Order, target: Path) -> None:
        from nivesh_lib.models.compact.onnx_classifier import OnnxClassifier

        fitted, texts = load_model(order.root / FP32), order.train.texts
        OnnxClassifier.of(fitted, precision=precision, texts=texts).save(target)

    return make


def _make_static(order: Order, target: Path) -> None:
    get_model("static").fit(order.train.texts, order.train.labels).save(target)


def _make_cascade(order: Order, target: Path) -> None:
    from nivesh_lib.models.wrappers.cascade import Cascade

    student, teacher = load_model(order.root / "static"), load_model(order.root / "ours-int8")
    threshold = _elsewhere(order.root)["threshold"]
    Cascade.of(student, teacher, threshold=threshold).save(target)


def _make_other_folds(order: Order, target: Path) -> None:
    """Choose the cascade's threshold on all folds but the judged one, and tell what is lost there.

    For that the models are made once more for each of these folds, without its rows.
    """
    from nivesh_lib.models.compact.onnx_classifier import OnnxClassifier

    target.mkdir(parents=True)
    if order.judged is None:
        _write_choice(target, {"threshold": order.threshold, "rows": 0, "lost": {}})
        return
    rest = other_folds(order.judged)
    common: dict[str, Any] = {"labels": sorted(rest["intent"].unique())}
    student = cross_validate(get_model("static"), rest, **common).oof
    network = get_model("transformer", epochs=order.epochs)
    before = cross_validate(network, rest, models_to=target, **common).oof

    def small(fold: int) -> OnnxClassifier:
        others = rest.loc[rest["fold"] != fold, "query"]
        return OnnxClassifier.of(load_model(fold_directory(target, fold)), texts=others)

    after = out_of_fold(small, rest, **common)
    split = choose_threshold(student, after, rest, allowed_loss=CASCADE_LOSS)
    rows = headline_mask(rest)
    right = [
        float((predicted_labels(one) == rest["intent"])[rows].mean()) for one in (before, after)
    ]
    lost = {"ours-int8": right[0] - right[1], "cascade": right[0] - split.accuracy.value}
    _write_choice(target, {"threshold": split.threshold, "rows": int(rows.sum()), "lost": lost})


def _write_choice(folder: Path, told: dict[str, Any]) -> None:
    (folder / "chosen.json").write_text(json.dumps(told), encoding="utf-8")


def _elsewhere(root: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((root / "other-folds" / "chosen.json").read_text("utf-8"))
    return told


def other_folds(judged: int) -> pd.DataFrame:
    """Return the training rows outside a fold."""
    train = intents().train
    return train[train["fold"] != judged].reset_index(drop=True)


def _make_tfidf(order: Order, target: Path) -> None:
    get_model("tfidf").fit(order.train.texts, order.train.labels).save(target)


def _make_sklearn(order: Order, target: Path) -> None:
    import joblib
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import FeatureUnion, Pipeline

    model = get_model("tfidf")
    common = {"sublinear_tf": True, "min_df": model.min_df, "dtype": np.float32}
    words = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b|₹|%|\?", **common)
    letters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), **common)
    linear = LogisticRegression(C=model.C, max_iter=300, tol=1e-3, random_state=42)
    pipeline = Pipeline(
        [("ngrams", FeatureUnion([("words", words), ("letters", letters)])), ("linear", linear)]
    )
    # It learns the texts that ours learns, and answers a query as it comes.
    texts = [extended(prepare(text)) for text in order.train.texts]
    target.mkdir(parents=True)
    joblib.dump(pipeline.fit(texts, order.train.labels), target / "pipeline.joblib")


def _folder(order: Order, target: Path) -> Path:
    """Make a peer's folder, with the tokenizer that it needs as well."""
    target.mkdir(parents=True)
    shutil.copy(order.root / FP32 / "tokenizer.json", target)
    return target


def _pretrained(folder: Path, dtype: str = "float32", attention: str = "sdpa") -> Any:
    from transformers import AutoModelForSequenceClassification

    return AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=dtype, attn_implementation=attention
    ).eval()


# --- engines -----------------------------------------------------------------------------------

# ids and mask, both (rows, width) -> logits (rows, classes)
Network = Callable[[np.ndarray, np.ndarray], np.ndarray]


class _Reader:
    """Texts to ids and mask, as `TransformerClassifier` reads them; ``width`` pads to so many."""

    def __init__(self, folder: Path, model: Path, width: int = 0) -> None:
        params = _card(model)["params"]
        self._glosses, self._max_length = params["glosses"], params["max_length"]
        self._tokenizer = SubwordTokenizer.from_folder(folder)
        self._width = width

    def __call__(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        seen = [prepare(text) for text in texts]
        read = [glossed(text) for text in seen] if self._glosses else seen
        ids, mask = padded(self._tokenizer.encode(read, self._max_length), self._tokenizer.pad_id)
        short = max(0, self._width - ids.shape[1])
        if short:
            ids = np.pad(ids, ((0, 0), (0, short)), constant_values=self._tokenizer.pad_id)
            mask = np.pad(mask, ((0, 0), (0, short)))
        return ids, mask


def token_counts(root: Path, texts: list[str]) -> list[int]:
    """Return the tokens of each text, special ones included."""
    _, mask = _Reader(root / FP32, root / FP32)(texts)
    return [int(n) for n in mask.sum(axis=1)]


def _card(folder: Path) -> dict[str, Any]:
    card: dict[str, Any] = json.loads((folder / "model.json").read_text("utf-8"))
    return card


def _answering(folder: Path, network: Network, width: int = 0) -> Loaded:
    model = folder.parent / FP32
    classes, read = _card(model)["classes"], _Reader(folder, model, width)

    def predict(texts: list[str]) -> list[str]:
        return [classes[number] for number in network(*read(texts)).argmax(axis=1)]

    return Loaded(predict, read)


def _load_torch(dtype: str = "float32", width: int = 0) -> Callable[[Path, int], Loaded]:
    def load(folder: Path, threads: int) -> Loaded:
        return _answering(folder, _torch_network(_pretrained(folder, dtype), threads), width)

    return load


def _load_pickled(folder: Path, threads: int) -> Loaded:
    import warnings

    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that torch.ao will move
        # Ours, written a minute ago; torch.ao has no other way to keep a whole model.
        model = torch.load(folder / "model.pt", weights_only=False)
    return _answering(folder, _torch_network(model, threads))


def _torch_network(model: Any, threads: int) -> Network:
    import torch

    torch.set_num_threads(threads)

    def network(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            answered = model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask))
        logits: np.ndarray = answered.logits.float().numpy()
        return logits

    return network


def _load_onnxruntime(folder: Path, threads: int) -> Loaded:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        folder / "model.onnx", options, providers=["CPUExecutionProvider"]
    )
    return _answering(folder, lambda ids, mask: session.run(None, {"ids": ids, "mask": mask})[0])


def _load_openvino(precision: str = "") -> Callable[[Path, int], Loaded]:
    def load(folder: Path, threads: int) -> Loaded:
        import openvino

        path = next(path for path in folder.iterdir() if path.suffix in (".onnx", ".xml"))
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
        }
        if precision:  # without it, the plugin takes bf16 where the processor has it
            settings["INFERENCE_PRECISION_HINT"] = precision
        compiled = openvino.Core().compile_model(path, "CPU", settings)
        return _answering(folder, lambda ids, mask: compiled({"ids": ids, "mask": mask})[0])

    return load


def _load_sklearn(folder: Path, threads: int) -> Loaded:
    import joblib

    return Loaded(joblib.load(folder / "pipeline.joblib").predict)


def _load_ours(folder: Path, threads: int) -> Loaded:
    model = load_model(folder)
    of_network = _card(folder)["kind"] in ("transformer", "onnx")
    read = _Reader(folder.parent / FP32, folder.parent / FP32) if of_network else None
    return Loaded(model.predict, read, file_rows=0, facts=_facts_of(model, folder))


def _facts_of(model: Any, folder: Path) -> Callable[[list[str]], dict[str, float]]:
    def facts(texts: list[str]) -> dict[str, float]:
        found = {}
        if hasattr(model, "student_"):
            found["threshold"] = float(model.threshold)
            sure = model.student_.predict_proba(texts).max(axis=1) >= model.threshold
            found["share answered by the student"] = float(sure.mean())
        if (folder.parent / "other-folds").exists():
            told = _elsewhere(folder.parent)
            if folder.name in told["lost"]:
                found[LOST_ELSEWHERE] = 100 * told["lost"][folder.name]
                found[ROWS_ELSEWHERE] = told["rows"]
        return found

    return facts
