"""Subword tokenization, and batches of token ids with little padding."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nivesh_lib.models.directory import read_bytes
from nivesh_lib.models.neural.backbones import load_tokenizer
from nivesh_lib.models.neural.checkpoints import check_tokenizer

_BUCKET_BATCHES = 50  # batches sorted by length together; more would order the training rows


class SubwordTokenizer:
    """A tokenizer of the ``tokenizers`` library with its padding id."""

    def __init__(self, tokenizer: Any, pad_id: int | None = None) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer = tokenizer
        self.pad_id = pad_id or 0

    @classmethod
    def from_folder(cls, folder: Path) -> SubwordTokenizer:
        """Read ``tokenizer.json``; older folders without one are read by transformers."""
        if not (folder / "tokenizer.json").exists():
            whole = load_tokenizer(folder)
            return cls(whole.backend_tokenizer, whole.pad_token_id)
        text = read_bytes(folder, "tokenizer.json", links=True).decode()
        return cls.from_json(text, str(folder / "tokenizer.json"))

    @property
    def vocabulary_size(self) -> int:
        """The number of tokens in the vocabulary."""
        return int(self._tokenizer.get_vocab_size())

    @property
    def splits_words(self) -> bool:
        """Whether the tokens of a text are those of its words between white space."""
        splitter = json.loads(self._tokenizer.to_str())["pre_tokenizer"] or {}
        return bool(splitter.get("type") == "BertPreTokenizer")

    @classmethod
    def from_json(cls, text: str, place: str = "tokenizer.json") -> SubwordTokenizer:
        """Return a tokenizer with the given content of ``tokenizer.json``.

        Raises
        ------
        ModelError
            See `checkpoints.check_tokenizer`.
        """
        from tokenizers import Tokenizer

        check_tokenizer(json.loads(text), place)
        tokenizer = Tokenizer.from_str(text)
        return cls(tokenizer, tokenizer.token_to_id("[PAD]") or tokenizer.token_to_id("<pad>"))

    def to_dict(self) -> dict[str, Any]:
        """Return the content of ``tokenizer.json``."""
        return dict(json.loads(self._tokenizer.to_str()))

    def words(self, text: str) -> list[str]:
        """Return the normalised, pre-tokenised words of a text."""
        normalised = self._tokenizer.normalizer.normalize_str(text)
        return [word for word, _ in self._tokenizer.pre_tokenizer.pre_tokenize_str(normalised)]

    def save(self, path: Path) -> None:
        """Write ``tokenizer.json``."""
        self._tokenizer.save(str(path))

    def special_ids(self) -> list[int]:
        """Return the ids of special tokens such as ``[CLS]`` and ``[UNK]``."""
        return sorted(self._tokenizer.get_added_tokens_decoder())

    def encode(self, texts: Sequence[str], max_length: int) -> list[np.ndarray]:
        """Return the int64 token ids of each text, at most ``max_length`` with special tokens."""
        # The tokenizer refuses lone surrogates.
        clean = [text.encode("utf-8", "replace").decode() for text in texts]
        if len(clean) == 1:  # without waking the threads of a batch, which takes longer
            ids = [self._tokenizer.encode(clean[0]).ids]
        else:
            ids = [one.ids for one in self._tokenizer.encode_batch_fast(clean)]
        for number, text in enumerate(clean):
            if len(ids[number]) > max_length:
                ids[number] = self._truncated(text, max_length)
        return [np.array(row, dtype=np.int64) for row in ids]

    def _truncated(self, text: str, max_length: int) -> list[int]:
        """Return the first ids of a text between its special tokens.

        The tokenizer's own truncation is mutable state, which concurrent threads would share.
        """
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        n_special = self._tokenizer.num_special_tokens_to_add(False)
        encoding.truncate(max(max_length - n_special, 0))
        return list(self._tokenizer.post_process(encoding).ids)


def batches_by_length(lengths: np.ndarray, size: int) -> list[np.ndarray]:
    """Return batches of row indices, shortest rows first."""
    order = np.argsort(lengths, kind="stable")
    return [order[start : start + size] for start in range(0, len(order), size)]


def shuffled_batches(
    lengths: np.ndarray, size: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """Yield batches of row indices in random order, each of rows of similar length."""
    order = rng.permutation(len(lengths))
    step = size * _BUCKET_BATCHES
    batches: list[np.ndarray] = []
    for start in range(0, len(order), step):
        part = order[start : start + step]
        batches += [part[rows] for rows in batches_by_length(lengths[part], size)]
    for index in rng.permutation(len(batches)):
        yield batches[index]


def padded(ids: Sequence[np.ndarray], pad_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Return ids and attention mask, both (rows, longest) int64; the mask is 0 on padding."""
    width = max(len(row) for row in ids)
    table = np.full((len(ids), width), pad_id, dtype=np.int64)
    mask = np.zeros_like(table)
    for number, row in enumerate(ids):
        table[number, : len(row)] = row
        mask[number, : len(row)] = 1
    return table, mask
