from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from nivesh_lib.errors import ModelError
from nivesh_lib.models.compact.vocabulary import prune_unreachable, read_tokenizer, write_tokenizer
from nivesh_lib.models.neural.backbones import find_backbone
from nivesh_lib.models.neural.tokenizer import SubwordTokenizer
from tests.models.conftest import QUERIES, TEXTS

ODD = ["[unused5] ##ing ##!", "[MASK] [SEP] [PAD]", "税金をa税 x税x", "É ﬁ İstanbul ǅ", "a-b_c", ""]


@pytest.fixture(scope="module")
def whole():
    return SubwordTokenizer.from_folder(find_backbone("minilm"))


@pytest.fixture(scope="module")
def slim(whole):
    return prune_unreachable(whole)


def characters() -> list[str]:
    """Return every character that there is: alone, inside a word and behind a digit."""
    every = [chr(n) for n in range(sys.maxunicode + 1) if not 0xD800 <= n < 0xE000]
    parts = [every[start : start + 500] for start in range(0, len(every), 500)]
    return [" ".join(f"{c} a{c}b" for c in part) for part in parts[:400]]


def test_every_text_has_the_same_tokens_under_other_numbers(whole, slim):
    tokenizer, old = slim
    vocabulary = [token.removeprefix("##") for token in whole.to_dict()["model"]["vocab"]]
    texts = [*TEXTS, *QUERIES, *ODD, " ".join(vocabulary), "a".join(vocabulary), *characters()]
    before, after = whole.encode(texts, 100_000), tokenizer.encode(texts, 100_000)
    assert all(np.array_equal(a, old[b]) for a, b in zip(before, after, strict=True))


def test_tokens_that_no_text_has_are_left_out_and_special_ones_stay(slim):
    tokenizer, old = slim
    known = tokenizer.to_dict()["model"]["vocab"]
    assert not {"[unused5]", "##!", "##金"} & set(known)
    assert {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "##ing", "金"} <= set(known)
    assert len(known) == len(old) == tokenizer.vocabulary_size


def test_a_vocabulary_of_another_family_comes_back_whole():
    from tokenizers import Tokenizer, models

    tokenizer = SubwordTokenizer(Tokenizer(models.BPE(vocab={"a": 0, "b": 1}, merges=[])))
    same, old = prune_unreachable(tokenizer)
    assert same is tokenizer and old.tolist() == [0, 1]


def test_a_written_tokenizer_is_small_and_reads_the_same(slim, whole, tmp_path: Path):
    write_tokenizer(slim[0], tmp_path)
    again = read_tokenizer(tmp_path).encode(TEXTS + ODD, 16)
    assert [a.tolist() for a in again] == [a.tolist() for a in slim[0].encode(TEXTS + ODD, 16)]
    whole.save(tmp_path / "whole.json")
    size = sum((tmp_path / name).stat().st_size for name in ("tokenizer.json", "vocabulary.txt"))
    assert size < (tmp_path / "whole.json").stat().st_size / 2


def test_a_vocabulary_without_end_is_refused(slim, tmp_path):
    write_tokenizer(slim[0], tmp_path)
    (tmp_path / "vocabulary.txt").write_text("a\n" * 500_000)
    with pytest.raises(ModelError, match=r"vocabulary.txt: more than 500,000 tokens"):
        read_tokenizer(tmp_path)
