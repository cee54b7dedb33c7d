from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nivesh_lib.errors import ModelError
from nivesh_lib.models.backbones import find_backbone
from nivesh_lib.models.wordpieces import WordPieces, by_length, padded, shuffled

from .conftest import TEXTS, tiny

LENGTHS = np.array([9, 2, 5, 2, 30, 4, 7] * 40)


def test_ids_are_those_of_transformers():
    from transformers import AutoTokenizer

    ours = WordPieces.from_folder(Path(tiny())).encode(TEXTS, 16)
    theirs = AutoTokenizer.from_pretrained(tiny())(TEXTS, truncation=True, max_length=16)
    assert [row.tolist() for row in ours] == theirs["input_ids"]


def test_a_long_text_is_cut_and_keeps_its_closing_mark():
    pieces = WordPieces.from_folder(Path(tiny()))
    (row,), (short,) = pieces.encode(["loan " * 1000], 12), pieces.encode(["loan"], 12)
    assert len(row) == 12 and row[-1] == short[-1]


def test_every_row_is_in_one_batch_and_batches_hold_rows_of_like_length():
    batches = list(shuffled(LENGTHS, 8, np.random.default_rng(1)))
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(LENGTHS)))
    wasted = sum(LENGTHS[rows].max() * len(rows) for rows in batches) / LENGTHS.sum()
    assert wasted < 1.1


def test_order_differs_between_epochs_and_repeats_with_the_seed():
    rng, again = np.random.default_rng(3), np.random.default_rng(3)
    first, second = list(shuffled(LENGTHS, 8, rng)), list(shuffled(LENGTHS, 8, rng))
    assert [b.tolist() for b in first] != [b.tolist() for b in second]
    assert [b.tolist() for b in first] == [b.tolist() for b in shuffled(LENGTHS, 8, again)]


def test_short_rows_come_first_for_prediction():
    assert LENGTHS[np.concatenate(by_length(LENGTHS, 8))].tolist() == sorted(LENGTHS)


def test_padding_ends_at_the_longest_row_of_the_batch():
    ids, mask = padded([np.array([5, 6]), np.array([7, 8, 9])], pad_id=1)
    assert ids.tolist() == [[5, 6, 1], [7, 8, 9]]
    assert mask.tolist() == [[1, 1, 0], [1, 1, 1]]


def test_vocabulary_and_rules_saved_apart_read_every_text_the_same(tmp_path):
    whole = WordPieces.from_folder(find_backbone("minilm"))
    whole.save_apart(tmp_path)
    apart = WordPieces.from_apart(tmp_path)
    odd = ["", "İstanbul ẞ", "पानी कब", "[MASK] [UNK] [unused7]", "₹50L, 8.5%?", "\u202eloan", "猫"]
    for ours, theirs in zip(apart.encode(odd, 32), whole.encode(odd, 32), strict=True):
        assert ours.tolist() == theirs.tolist()
    assert (apart.pad_id, apart.size) == (whole.pad_id, whole.size)
    whole.save(tmp_path / "tokenizer.json")
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert sum(sizes.values()) < 1.5 * sizes["tokenizer.json"]


def test_unused_places_are_out_of_reach_and_special_pieces_are_told():
    pieces = WordPieces.from_folder(find_backbone("minilm"))
    named = np.array(pieces.vocabulary)
    out = named[~pieces.reachable()]
    assert {"[unused0]", "[unused7]"} < set(out) and all(p.startswith("[unused") for p in out)
    assert set(named[pieces.special()]) == {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}
    (ids,) = pieces.encode([" ".join(out)], 10_000)
    assert pieces.reachable()[ids].all()


def test_a_vocabulary_of_another_kind_is_not_saved_apart(tmp_path):
    from tokenizers import Tokenizer
    from tokenizers.models import BPE

    with pytest.raises(ModelError, match="only BERT's word pieces"):
        WordPieces(Tokenizer(BPE())).save_apart(tmp_path)
