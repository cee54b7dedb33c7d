from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from nivesh_lib.models.neural.tokenizer import (
    SubwordTokenizer,
    batches_by_length,
    padded,
    shuffled_batches,
)
from tests.models.conftest import TEXTS, tiny

LENGTHS = np.array([9, 2, 5, 2, 30, 4, 7] * 40)


def test_ids_are_those_of_transformers():
    from transformers import AutoTokenizer

    ours = SubwordTokenizer.from_folder(Path(tiny())).encode(TEXTS, 16)
    theirs = AutoTokenizer.from_pretrained(tiny())(TEXTS, truncation=True, max_length=16)
    assert [row.tolist() for row in ours] == theirs["input_ids"]


def test_a_long_text_is_cut_and_keeps_its_closing_mark():
    tokenizer = SubwordTokenizer.from_folder(Path(tiny()))
    (row,), (short,) = tokenizer.encode(["loan " * 1000], 12), tokenizer.encode(["loan"], 12)
    assert len(row) == 12 and row[-1] == short[-1]


def test_threads_that_cut_texts_at_once_do_not_disturb_each_other():
    tokenizer = SubwordTokenizer.from_folder(Path(tiny()))
    texts = ["loan " * 300, "tax"]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda n: tokenizer.encode([texts[n % 2]], 12)[0], range(4000)))
    finally:
        sys.setswitchinterval(before)
    assert {len(row) for row in found[::2]} == {12}


def test_every_row_is_in_one_batch_and_batches_hold_rows_of_like_length():
    batches = list(shuffled_batches(LENGTHS, 8, np.random.default_rng(1)))
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(LENGTHS)))
    wasted = sum(LENGTHS[rows].max() * len(rows) for rows in batches) / LENGTHS.sum()
    assert wasted < 1.1


def test_order_differs_between_epochs_and_repeats_with_the_seed():
    rng, again = np.random.default_rng(3), np.random.default_rng(3)
    first, second = list(shuffled_batches(LENGTHS, 8, rng)), list(shuffled_batches(LENGTHS, 8, rng))
    assert [b.tolist() for b in first] != [b.tolist() for b in second]
    assert [b.tolist() for b in first] == [b.tolist() for b in shuffled_batches(LENGTHS, 8, again)]


def test_short_rows_come_first_for_prediction():
    assert LENGTHS[np.concatenate(batches_by_length(LENGTHS, 8))].tolist() == sorted(LENGTHS)


def test_padding_ends_at_the_longest_row_of_the_batch():
    ids, mask = padded([np.array([5, 6]), np.array([7, 8, 9])], pad_id=1)
    assert ids.tolist() == [[5, 6, 1], [7, 8, 9]]
    assert mask.tolist() == [[1, 1, 0], [1, 1, 1]]
