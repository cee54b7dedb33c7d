"""A vocabulary of word pieces that takes little room: no piece in it that no text has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from nivesh_lib.models.neural.tokenizer import WordPieces

# The parts whose numbers and rules are known here.
_READING = {
    "normalizer": "BertNormalizer",
    "pre_tokenizer": "BertPreTokenizer",
    "model": "WordPiece",
    "post_processor": "TemplateProcessing",
}


def reachable(pieces: WordPieces) -> tuple[WordPieces, np.ndarray]:
    """Return the pieces that a text can have, numbered anew, and the old number of each.

    BERT's vocabulary holds pieces that its own reading of a text never leads to: ``[unused5]`` is
    three words to it, and Chinese characters and punctuation never continue a word. Every text
    has the same pieces as before. Vocabularies of other families come back whole.
    """
    told = pieces.description()
    if not _understood(told):
        return pieces, np.arange(pieces.size)
    marks = {token["content"] for token in told["added_tokens"]}
    prefix = told["model"]["continuing_subword_prefix"]
    old = sorted(told["model"]["vocab"].items(), key=lambda item: item[1])
    kept = [(p, n) for p, n in old if p in marks or _survives(pieces, p, prefix)]
    numbers = {piece: number for number, (piece, _) in enumerate(kept)}
    return WordPieces.from_description(_renumbered(told, numbers)), np.array([n for _, n in kept])


def _understood(told: dict[str, Any]) -> bool:
    kinds = [told[part] and told[part]["type"] for part in _READING]
    return kinds == list(_READING.values())


def _survives(pieces: WordPieces, piece: str, prefix: str) -> bool:
    """Return whether reading leaves the piece as it is, alone or behind a letter."""
    word = "a" + piece.removeprefix(prefix) if piece.startswith(prefix) else piece
    # A word that starts like a continuation does not outlive the reading: ## are two words.
    return pieces.words(word) == [word]


def _renumbered(told: dict[str, Any], numbers: dict[str, int]) -> dict[str, Any]:
    added = [token | {"id": numbers[token["content"]]} for token in told["added_tokens"]]
    template = dict(told["post_processor"])
    template["special_tokens"] = {
        name: mark | {"ids": [numbers[token] for token in mark["tokens"]]}
        for name, mark in template["special_tokens"].items()
    }
    model = told["model"] | {"vocab": numbers}
    return told | {"added_tokens": added, "post_processor": template, "model": model}


def save_packed(pieces: WordPieces, directory: Path) -> None:
    """Write the tokenizer, its vocabulary apart where that is a plain list: a third of the room."""
    told = pieces.description()
    vocabulary = told["model"].get("vocab")
    if _understood(told):
        names = sorted(vocabulary, key=vocabulary.__getitem__)
        (directory / "vocabulary.txt").write_text("\n".join(names), encoding="utf-8", newline="\n")
        told["model"]["vocab"] = {}
    text = json.dumps(told, ensure_ascii=False)
    (directory / "tokenizer.json").write_text(text, encoding="utf-8")


def load_packed(directory: Path) -> WordPieces:
    """Read what `save_packed` wrote."""
    told = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))
    listed = directory / "vocabulary.txt"
    if listed.is_file():
        names = listed.read_bytes().decode().split("\n")
        told["model"]["vocab"] = {name: number for number, name in enumerate(names)}
    return WordPieces.from_description(told)
