"""Tokenizers without unreachable tokens, and their compact files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from nivesh_lib.errors import ModelError
from nivesh_lib.models.directory import read_bytes, read_json
from nivesh_lib.models.neural.tokenizer import SubwordTokenizer

# The components of tokenizer.json that can be renumbered.
_SUPPORTED = {
    "normalizer": "BertNormalizer",
    "pre_tokenizer": "BertPreTokenizer",
    "model": "WordPiece",
    "post_processor": "TemplateProcessing",
}

_MAX_TOKENS = 500_000  # twice those of multilingual encoders


def prune_unreachable(tokenizer: SubwordTokenizer) -> tuple[SubwordTokenizer, np.ndarray]:
    """Return a tokenizer with the tokens that texts can have, and the old id of each, int64 (n,).

    BERT's vocabulary holds tokens that its normalizer and pre-tokenizer never produce: they split
    ``[unused5]`` into three words, and Chinese characters and punctuation never continue a word.
    Every text has the same tokens as before. Other families of vocabularies are not changed.
    """
    content = tokenizer.to_dict()
    if not _is_supported(content):
        return tokenizer, np.arange(tokenizer.vocabulary_size)
    special = {token["content"] for token in content["added_tokens"]}
    prefix = content["model"]["continuing_subword_prefix"]
    old = sorted(content["model"]["vocab"].items(), key=lambda item: item[1])
    kept = [(t, n) for t, n in old if t in special or _is_reachable(tokenizer, t, prefix)]
    ids = {token: number for number, (token, _) in enumerate(kept)}
    pruned = SubwordTokenizer.from_json(json.dumps(_renumbered(content, ids)))
    return pruned, np.array([n for _, n in kept])


def _is_supported(content: dict[str, Any]) -> bool:
    kinds = [content[part] and content[part]["type"] for part in _SUPPORTED]
    return kinds == list(_SUPPORTED.values())


def _is_reachable(tokenizer: SubwordTokenizer, token: str, prefix: str) -> bool:
    """Return whether pre-tokenization leaves the token whole, alone or behind a letter."""
    word = "a" + token.removeprefix(prefix) if token.startswith(prefix) else token
    return tokenizer.words(word) == [word]


def _renumbered(content: dict[str, Any], ids: dict[str, int]) -> dict[str, Any]:
    added = [token | {"id": ids[token["content"]]} for token in content["added_tokens"]]
    template = dict(content["post_processor"])
    template["special_tokens"] = {
        name: special | {"ids": [ids[token] for token in special["tokens"]]}
        for name, special in template["special_tokens"].items()
    }
    model = content["model"] | {"vocab": ids}
    return content | {"added_tokens": added, "post_processor": template, "model": model}


def write_tokenizer(tokenizer: SubwordTokenizer, directory: Path) -> None:
    """Write ``tokenizer.json``, its vocabulary as a plain list in ``vocabulary.txt`` if possible.

    The list takes a third of the space.
    """
    content = tokenizer.to_dict()
    vocabulary = content["model"].get("vocab")
    if _is_supported(content):
        names = sorted(vocabulary, key=vocabulary.__getitem__)
        (directory / "vocabulary.txt").write_text("\n".join(names), encoding="utf-8", newline="\n")
        content["model"]["vocab"] = {}
    text = json.dumps(content, ensure_ascii=False)
    (directory / "tokenizer.json").write_text(text, encoding="utf-8")


def read_tokenizer(directory: Path) -> SubwordTokenizer:
    """Return the tokenizer that `write_tokenizer` wrote.

    Raises
    ------
    ModelError
        A file is missing or too long, or the tokenizer is refused.
    """
    content = read_json(directory, "tokenizer.json")
    if (directory / "vocabulary.txt").exists():
        text = read_bytes(directory, "vocabulary.txt").decode()
        if text.count("\n") >= _MAX_TOKENS:
            raise ModelError(
                f"{directory / 'vocabulary.txt'}: more than {_MAX_TOKENS:,} tokens. Save it again"
            )
        names = text.split("\n")
        content["model"]["vocab"] = {name: number for number, name in enumerate(names)}
    whole = json.dumps(content)
    del content  # it is read again
    return SubwordTokenizer.from_json(whole, str(directory / "tokenizer.json"))
