"""Texts as sequences of word pieces, and sequences as batches that waste little."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nivesh_lib.models.neural.backbones import load_tokenizer

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

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> WordPieces:
        """Read what `description` returned."""
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_str(json.dumps(description))
        return cls(tokenizer, tokenizer.token_to_id("[PAD]") or tokenizer.token_to_id("<pad>"))

    def description(self) -> dict[str, Any]:
        """Return the content of ``tokenizer.json``."""
        return dict(json.loads(self._tokenizer.to_str()))

    def words(self, text: str) -> list[str]:
        """Return the parts of a text that are cut into pieces one by one, as pieces see them."""
        read = self._tokenizer.normalizer.normalize_str(text)
        return [word for word, _ in self._tokenizer.pre_tokenizer.pre_tokenize_str(read)]

    def save(self, path: Path) -> None:
        """Write ``tokenizer.json``."""
        self._tokenizer.save(str(path))

    def special(self) -> list[int]:
        """Return the ids of pieces that stand for no word, such as ``[CLS]`` and ``[UNK]``."""
        return sorted(self._tokenizer.get_added_tokens_decoder())

    def encode(self, texts: Sequence[str], max_length: int) -> list[np.ndarray]:
        """Return the ids of each text, special tokens included, at most ``max_length`` of them."""
        # Half a surrogate pair is no text to the tokenizer; everything else passes unchanged.
        clean = [text.encode("utf-8", "replace").decode() for text in texts]
        ids = [one.ids for one in self._tokenizer.encode_batch_fast(clean)]
        return [
            np.array(row if len(row) <= max_length else self._cut(text, max_length), dtype=np.int64)
            for row, text in zip(ids, clean, strict=True)
        ]

    def _cut(self, text: str, max_length: int) -> list[int]:
        """Return the ids of the first pieces of a text, with the special tokens around them.

        The tokenizer's own truncation is a state, which threads that ask at once would share.
        """
        pieces = self._tokenizer.encode(text, add_special_tokens=False)
        around = self._tokenizer.num_special_tokens_to_add(False)
        pieces.truncate(max(max_length - around, 0))
        return list(self._tokenizer.post_process(pieces).ids)


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
