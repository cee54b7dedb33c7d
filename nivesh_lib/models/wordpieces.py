"""Texts as sequences of word pieces, and sequences as batches that waste little."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nivesh_lib.errors import ModelError
from nivesh_lib.models.backbones import load_tokenizer

_RULES, _VOCABULARY = "tokenizer_rules.json", "vocabulary.txt"
_UNUSED = re.compile(r"\[unused\d+\]")
_BUCKET_BATCHES = 50  # batches sorted by length together; more would order the training


class WordPieces:
    """A tokenizer of the ``tokenizers`` library, and the id that fills short rows."""

    def __init__(self, tokenizer: Any, pad_id: int | None = None) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer = tokenizer
        self.pad_id = pad_id or 0

    @classmethod
    def from_folder(cls, folder: Path) -> WordPieces:
        """Read ``tokenizer.json``; older folders, which have none, go through transformers."""
        from tokenizers import Tokenizer

        path = folder / "tokenizer.json"
        if not path.is_file():
            whole = load_tokenizer(folder)
            return cls(whole.backend_tokenizer, whole.pad_token_id)
        tokenizer = Tokenizer.from_file(str(path))
        return cls(tokenizer, tokenizer.token_to_id("[PAD]") or tokenizer.token_to_id("<pad>"))

    @property
    def size(self) -> int:
        """Return the number of word pieces in the vocabulary."""
        return int(self._tokenizer.get_vocab_size())

    def save(self, path: Path) -> None:
        """Write ``tokenizer.json``."""
        self._tokenizer.save(str(path))

    def save_apart(self, directory: Path) -> None:
        """Write vocabulary and rules as two files, a third of the size of ``tokenizer.json``.

        Raises
        ------
        ModelError
            The vocabulary is no plain list of pieces, as that of BERT's family is.
        """
        whole = json.loads(self._tokenizer.to_str())
        if whole["model"]["type"] != "WordPiece":
            raise ModelError(
                f"{whole['model']['type']}: only BERT's word pieces can be saved apart"
            )
        whole["model"]["vocab"] = {}
        (directory / _RULES).write_text(json.dumps(whole), encoding="utf-8")
        (directory / _VOCABULARY).write_text("\n".join(self.vocabulary), encoding="utf-8")

    @classmethod
    def from_apart(cls, directory: Path) -> WordPieces:
        """Read what `save_apart` wrote."""
        from tokenizers import Tokenizer

        whole = json.loads((directory / _RULES).read_text(encoding="utf-8"))
        pieces = (directory / _VOCABULARY).read_text(encoding="utf-8").split("\n")
        whole["model"]["vocab"] = {piece: number for number, piece in enumerate(pieces)}
        tokenizer = Tokenizer.from_str(json.dumps(whole))
        return cls(tokenizer, tokenizer.token_to_id("[PAD]"))

    @property
    def vocabulary(self) -> list[str]:
        """Return the word pieces in the order of their ids."""
        known = self._tokenizer.get_vocab()
        return sorted(known, key=known.__getitem__)

    def reachable(self) -> np.ndarray:
        """Return a mask of the word pieces that a text can have, shape (pieces,).

        BERT's vocabulary keeps places free, ``[unused0]`` and so on, that no text leads to.
        """
        return np.array([not _UNUSED.fullmatch(piece) for piece in self.vocabulary])

    def special(self) -> list[int]:
        """Return the ids of pieces that stand for no word, such as ``[CLS]`` and ``[UNK]``."""
        return sorted(self._tokenizer.get_added_tokens_decoder())

    def encode(self, texts: Sequence[str], max_length: int) -> list[np.ndarray]:
        """Return the ids of each text, special tokens included, at most ``max_length`` of them."""
        self._tokenizer.enable_truncation(max_length)
        # Half a surrogate pair is no text to the tokenizer; everything else passes unchanged.
        clean = [text.encode("utf-8", "replace").decode() for text in texts]
        encoded = self._tokenizer.encode_batch_fast(clean)
        self._tokenizer.no_truncation()
        return [np.array(one.ids, dtype=np.int64) for one in encoded]


def by_length(lengths: np.ndarray, size: int) -> list[np.ndarray]:
    """Return batches of row numbers, short rows first."""
    order = np.argsort(lengths, kind="stable")
    return [order[start : start + size] for start in range(0, len(order), size)]


def shuffled(lengths: np.ndarray, size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield batches of row numbers in random order, each of rows of similar length."""
    order = rng.permutation(len(lengths))
    step = size * _BUCKET_BATCHES
    batches: list[np.ndarray] = []
    for start in range(0, len(order), step):
        part = order[start : start + step]
        batches += [part[rows] for rows in by_length(lengths[part], size)]
    for index in rng.permutation(len(batches)):
        yield batches[index]


def padded(ids: Sequence[np.ndarray], pad_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Return ids and mask, both (rows, longest), int64; the mask is 0 on padding."""
    width = max(len(row) for row in ids)
    table = np.full((len(ids), width), pad_id, dtype=np.int64)
    mask = np.zeros_like(table)
    for number, row in enumerate(ids):
        table[number, : len(row)] = row
        mask[number, : len(row)] = 1
    return table, mask
