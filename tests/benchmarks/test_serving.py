from __future__ import annotations

import itertools
import json
import shutil

import pytest

from nivesh_lib import paths
from nivesh_lib.errors import NiveshError
from tests.benchmarks import serving, serving_worker
from tests.benchmarks.serving_marks import LOADS, MODELS, PEERS, Round, capacity, judged, marks


def flow(**other):
    told = {"good_per_second": 500.0, "p95_ms": 10.0, "late_p95_ms": 1.0}
    return {**told, "statuses": {"200": 9, "503": 9}, "refused_without_retry_after": 0, **other}


def closed(rate):
    return {str(n): {"per_second": rate, "p50_ms": 1.0, "refused": 0} for n in LOADS}


def a_round() -> Round:
    """A round in which every mark is met."""
    engine = {"p50_ms": 0.9, "batch_per_second": 1_000.0}
    ours = {"engine": engine, "half": flow(), "batch": {"per_second": 900.0}}
    rates = {"static": 4_000.0, "cascade": 1_000.0, "transformer": 600.0, "constant": 5_000.0}
    found: Round = {name: {"closed": closed(rate), **ours} for name, rate in rates.items()}
    found["transformer"]["overload"] = flow()
    return found | {name: {"closed": closed(500.0)} for name in PEERS}


def changed(change):
    found = a_round()
    change(found)
    return [mark.text for mark in marks([found]) if mark.met is False]


def test_every_mark_can_be_met():
    assert all(mark.met for mark in marks([a_round()]))
    assert len(marks([a_round()])) == 3 + len(LOADS) + 2 + 2 * len(MODELS) + 3


@pytest.mark.parametrize(
    ("change", "missed"),
    [
        (lambda r: r["static"]["engine"].update(p50_ms=0.7), "static: added p50"),
        (lambda r: r["mlflow"]["closed"]["16"].update(per_second=700.0), "best peer, 16 conn"),
        (lambda r: r["bento"]["closed"]["4"].update(per_second=900.0), "with the transformer"),
        (lambda r: r["constant"]["closed"]["1"].update(per_second=6_000.0), "a constant answer"),
        (lambda r: r["cascade"].update(half=flow(p95_ms=21.0)), "cascade: p95 in ms at half"),
        (lambda r: r["static"].update(batch={"per_second": 700.0}), "static: batches"),
        (lambda r: r["transformer"].update(overload=flow(good_per_second=400.0)), "goodput"),
        (lambda r: r["transformer"].update(overload=flow(p95_ms=101.0)), "p95 of answers"),
        (lambda r: r["transformer"].update(overload=flow(statuses={"0": 1})), "neither answered"),
        (
            lambda r: r["transformer"].update(overload=flow(refused_without_retry_after=1)),
            "neither answered",
        ),
    ],
)
def test_what_falls_short_is_missed(change, missed):
    found = changed(change)
    assert any(missed in text for text in found), found


def test_the_median_of_the_rounds_decides_and_the_range_is_told():
    rounds: list[Round] = [{"a": {"x": value}} for value in (3.0, 1.0, 9.0)]
    mark = judged(rounds, "a", lambda one: one["a"]["x"], most=4)
    assert mark.met and "3 (1 to 9); at most 4" in mark.text
    assert judged(rounds, "a", lambda one: one["a"]["x"], least=4).met is False


def test_what_was_not_measured_is_neither_met_nor_missed():
    part = {name: told for name, told in a_round().items() if name in ("static", "constant")}
    verdicts = [mark.met for mark in marks([part])]
    assert verdicts.count(None) == len(verdicts) - 4 and False not in verdicts
    assert all(mark.met is None for mark in marks([]))


def test_a_generator_that_was_late_itself_shows_nothing():
    found = a_round()
    found["static"]["half"] = flow(late_p95_ms=6.0)
    assert [mark.text[:22] for mark in marks([found]) if mark.met is None] == [
        "static: p95 in ms at h"
    ]


def test_every_request_has_another_query(tmp_path):
    file = tmp_path / "queries.txt"
    file.write_text('say \\"hi\\"\n₹5\n', encoding="utf-8")
    asked = list(itertools.islice(serving_worker.numbered(str(file), 7), 3))
    assert [json.loads(f'"{text}"') for text in asked] == ['say "hi" 7', "₹5 8", 'say "hi" 9']
    body = json.loads(next(serving_worker.batches(str(file), 0)))
    assert len(set(body["queries"])) == serving_worker.BATCH


def test_wrk_is_asked_for_where_it_is_absent(monkeypatch):
    monkeypatch.setattr(serving.shutil, "which", lambda name: None)
    with pytest.raises(NiveshError, match="apt-get install wrk"):
        serving.main(["--short"])


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_a_trial_leaves_what_a_checklist_reads(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(serving, "RESULT", tmp_path / "load.json")
    assert serving.main(["--short", "--servers", "static"]) == 0
    told = json.loads((tmp_path / "load.json").read_text())
    assert told["digest"] == serving.model_hash(paths.shipped_model())
    assert told["requests_per_second"] == round(capacity(told["rounds"][0]["static"]), 1) > 0
    assert "static: added p50 in ms" in capsys.readouterr().out
