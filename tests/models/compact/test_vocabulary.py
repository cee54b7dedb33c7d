from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from nivesh_lib.models.compact.vocabulary import load_packed, reachable, save_packed
from nivesh_lib.models.neural.backbones import find_backbone
from nivesh_lib.models.neural.tokenizer import WordPieces
from tests.models.conftest import QUERIES, TEXTS

ODD = ["[unused5] ##ing ##!", "[MASK] [SEP] [PAD]", "税金をa税 x税x", "É ﬁ İstanbul ǅ", "a-b_c", ""]


@pytest.fixture(scope="module")
def whole():
    return WordPieces.from_folder(find_backbone("minilm"))


@pytest.fixture(scope="module")
def slim(whole):
    return reachable(whole)


def characters() -> list[str]:
    """Return every character that there is: alone, inside a word and behind a digit."""
    every = [chr(n) for n in range(sys.maxunicode + 1) if not 0xD800 <= n < 0xE000]
    parts = [every[start : start + 500] for start in range(0, len(every), 500)]
    return [" ".join(f"{c} a{c}b" for c in part) for part in parts[:400]]


def test_every_text_has_the_same_pieces_under_other_numbers(whole, slim):
    pieces, old = slim
    vocabulary = [piece.removeprefix("##") for piece in whole.description()["model"]["vocab"]]
    texts = [*TEXTS, *QUERIES, *ODD, " ".join(vocabulary), "a".join(vocabulary), *characters()]
    before, after = whole.encode(texts, 100_000), pieces.encode(texts, 100_000)
    assert all(np.array_equal(a, old[b]) for a, b in zip(before, after, strict=True))


def test_pieces_that_no_text_has_are_left_out_and_marks_stay(slim):
    pieces, old = slim
    known = pieces.description()["model"]["vocab"]
    assert not {"[unused5]", "##!", "##金"} & set(known)
    assert {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "##ing", "金"} <= set(known)
    assert len(known) == len(old) == pieces.size


def test_a_vocabulary_of_another_family_comes_back_whole():
    from tokenizers import Tokenizer, models

    pieces = WordPieces(Tokenizer(models.BPE(vocab={"a": 0, "b": 1}, merges=[])))
    same, old = reachable(pieces)
    assert same is pieces and old.tolist() == [0, 1]


def test_a_packed_tokenizer_is_small_and_reads_the_same(slim, whole, tmp_path: Path):
    save_packed(slim[0], tmp_path)
    again = load_packed(tmp_path).encode(TEXTS + ODD, 16)
    assert [a.tolist() for a in again] == [a.tolist() for a in slim[0].encode(TEXTS + ODD, 16)]
    whole.save(tmp_path / "whole.json")
    size = sum((tmp_path / name).stat().st_size for name in ("tokenizer.json", "vocabulary.txt"))
    assert size < (tmp_path / "whole.json").stat().st_size / 2
