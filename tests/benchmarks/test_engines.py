from __future__ import annotations

import json
import subprocess

import pytest

from nivesh_lib.errors import NiveshError
from tests.benchmarks import (
    engine_candidates,
    engine_marks,
    engine_tables,
    engine_worker,
    peers,
)
from tests.benchmarks import engines as bench
from tests.benchmarks.engine_candidates import Loaded, engines, other_folds, wanted
from tests.benchmarks.peers import Failed

FP32, OURS = "torch-fp32", "ours-int8"
SINGLE = {  # ms of single queries
    "torch-fp32": 8.0,
    "ort-int8": 1.0,
    "ours-int8": 0.8,
    "seed-path": 40.0,
    "sklearn": 1.0,
    "tfidf": 0.09,
    "static": 0.05,
    "cascade": 0.2,
}


def told(ms: float, labels: list[str], **more: object) -> dict:
    """What a worker tells of an engine that takes ``ms`` for each query, alone or not."""
    sizes = {"1": 1, "8": 8, "32": 32, "file": len(labels)}
    return {
        "times_ms": {size: [ms * n] * 4 for size, n in sizes.items()},
        "read_ms": [0.01],
        "load_seconds": 0.5,
        "labels": labels,
        "facts": {},
        "peak_bytes": 100_000_000,
    } | more


@pytest.fixture
def speeds() -> dict[str, dict]:
    return {
        name: engine_tables.summary([told(ms, ["a"] * 64)] * 3, 64) for name, ms in SINGLE.items()
    }


SIZES = dict.fromkeys(SINGLE, 10_000_000) | {FP32: 90_000_000, "static": 2_000_000}
SAME = {"value": 0.0, "low": 0.0, "high": 0.0, "n": 160}
QUALITY = {name: {"agreement": 1.0, "difference": SAME} for name in SINGLE}


def by_title(found: list[engine_marks.Mark]) -> dict[str, engine_marks.Mark]:
    return {mark.text.partition(":")[0]: mark for mark in found}


@pytest.mark.parametrize(
    ("title", "figures"),
    [
        ("single query, 1 thread", "ours-int8 0.800 ms, torch-fp32 8.00 ms: 0.10"),
        ("single query beside the best engine, 1 thread", "ort-int8 1.00 ms: 0.80"),
        ("a file, 1 thread", "ours-int8 1,250 q/s, seed-path 25 q/s: 50.00"),
        ("cascade on a file, 1 thread", "cascade 5,000 q/s, ours-int8 1,250 q/s: 4.00"),
        ("TF-IDF single query, 1 thread", "tfidf 0.090 ms, sklearn 1.00 ms: 11.11"),
        ("size of ours-int8", "10 MB of 90 MB: 1/9.00; at most 1/4"),
        ("size of static", "2.0 MB of 90 MB: 1/45.00; at most 1/40"),
    ],
)
def test_a_mark_that_is_met_tells_both_numbers(speeds, title, figures):
    mark = by_title(engine_marks.marks({1: speeds}, SIZES, QUALITY))[title]
    assert mark.met and str(mark).startswith("met ")
    assert figures in mark.text


@pytest.mark.parametrize(
    ("slower", "factor", "title"),
    [
        (OURS, 2.6, "single query, 1 thread"),
        (OURS, 1.3, "single query beside the best engine, 1 thread"),
        (OURS, 3.4, "a file, 1 thread"),
        ("cascade", 1.01, "cascade on a file, 1 thread"),
        ("tfidf", 1.2, "TF-IDF single query, 1 thread"),
    ],
)
def test_a_mark_is_missed_where_ours_is_slower(speeds, slower, factor, title):
    speeds[slower] = engine_tables.summary([told(SINGLE[slower] * factor, ["a"] * 64)], 64)
    for name in SINGLE:  # one round each
        if name != slower:
            speeds[name] = engine_tables.summary([told(SINGLE[name], ["a"] * 64)], 64)
    mark = by_title(engine_marks.marks({1: speeds}, SIZES, QUALITY))[title]
    assert mark.met is False and str(mark).startswith("MISSED")


@pytest.mark.parametrize(
    ("name", "title", "lost", "met"),
    [
        (OURS, "size of ours-int8", 0.003, True),
        (OURS, "size of ours-int8", 0.004, False),
        ("cascade", "cascade on a file, 1 thread", 0.002, True),
        ("cascade", "cascade on a file, 1 thread", 0.003, False),
    ],
)
def test_speed_and_size_count_only_within_the_loss_allowed(speeds, name, title, lost, met):
    quality = QUALITY | {name: {"difference": {**SAME, "value": -lost}}}
    mark = by_title(engine_marks.marks({1: speeds}, SIZES, quality))[title]
    assert mark.met is met and f"loses {100 * lost:.1f} points on 160 rows" in mark.text


@pytest.mark.parametrize(("elsewhere", "met"), [(0.0, True), (0.5, False), (-1.0, True)])
@pytest.mark.parametrize(
    ("name", "title"), [("cascade", "cascade on a file, 1 thread"), (OURS, "size of ours-int8")]
)
def test_a_loss_is_told_of_all_folds_where_they_were_asked(speeds, name, title, elsewhere, met):
    asked = {"points lost on the other folds": elsewhere, "rows of these": 640}
    speeds[name]["facts"] = asked
    quality = QUALITY | {name: {"difference": {**SAME, "value": -0.01}}}
    mark = by_title(engine_marks.marks({1: speeds}, SIZES, quality))[title]
    assert mark.met is met
    assert f"{abs(0.2 + 0.8 * elsewhere):.2f} on 800 of all folds" in mark.text


def test_a_gain_is_called_one(speeds):
    quality = QUALITY | {"static": {"difference": {**SAME, "value": 0.01}}}
    mark = by_title(engine_marks.marks({1: speeds}, SIZES, quality))["size of static"]
    assert mark.text.endswith("it gains 1.0 points on 160 rows")


def test_what_was_not_measured_or_judged_is_unknown_and_named(speeds):
    del speeds[OURS]
    quality = QUALITY | {"cascade": {"agreement": 1.0}}
    found = by_title(engine_marks.marks({1: speeds}, {}, quality))
    assert found["single query, 1 thread"].met is None
    assert "ours-int8 not measured" in found["single query, 1 thread"].text
    assert "not judged" in found["cascade on a file, 1 thread"].text
    assert found["size of static"].met is None


def test_ratios_are_taken_round_by_round_and_the_worst_is_told():
    found = engine_marks.ratio([1.0, 2.0, 9.0], [2.0, 4.0, 6.0], lower_wins=True)
    assert (found.value, found.worst) == (0.5, 1.5)
    assert engine_marks.ratio([8.0, 2.0], [2.0, 2.0], lower_wins=False).worst == 1.0


def test_percentiles_are_of_all_calls_and_rates_of_all_rows():
    rounds = [told(1.0, ["a"] * 10), told(3.0, ["a"] * 10)]
    found = engine_tables.summary(rounds, 10)
    assert found["batches"]["1"]["p50_ms"] == 2.0
    assert found["batches"]["1"]["p50_ms_each"] == [1.0, 3.0]
    assert found["batches"]["file"]["per_second_each"] == pytest.approx([1000, 1000 / 3])


def test_the_floor_counts_cores_and_tokens():
    assert engine_tables.times_floor(0.35, 1, 16) == "1.0"
    assert engine_tables.times_floor(0.35, 2, 16) == "2.0"
    assert engine_tables.times_floor(0.35, 1, 8) == "2.0"


def test_tables_show_a_dash_where_there_is_no_figure(speeds):
    speeds["seed-path"]["batches"].pop("8")
    speeds["tfidf"]["read_ms"] = None
    common = {"threads": 1, "tokens": 16, "floored": [FP32]}
    single = engine_tables.single(speeds, **common).splitlines()
    assert single[2].split()[-2:] == ["7.99", "22.9"]
    assert next(line for line in single if line.startswith("tfidf")).split()[-2:] == ["-", "-"]
    many = engine_tables.batched(speeds, **common).splitlines()
    assert next(line for line in many if line.startswith("seed")).split()[1:3] == ["-", "-"]
    sizes = engine_tables.artefacts(speeds, SIZES, QUALITY, fp32=90_000_000).splitlines()
    assert "1/45.0" in next(line for line in sizes if line.startswith("static"))


def test_an_artefact_is_made_after_what_it_is_made_from():
    names = wanted([engines()["cascade"], engines()["openvino-int8"]])
    assert names[0] == "transformer"
    assert names.index("static") < names.index("cascade") > names.index("ours-int8")
    assert names.index("onnx") < names.index("openvino-int8")
    assert len(set(names)) == len(names)


def test_an_engine_lacks_what_its_artefacts_lack(monkeypatch):
    monkeypatch.setattr(engine_candidates, "_present", lambda name: not name.startswith("nncf"))
    assert engine_candidates.missing(engines()["openvino-int8"]) == ["nncf"]
    assert engine_candidates.missing(engines()["ort-int8"]) == []


@pytest.mark.parametrize("name", ["no_such_package", "no_such_package.module", "json.nothing"])
def test_an_absent_module_is_absent_whatever_lies_above_it(name):
    assert not engine_candidates._present(name)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--engines", "ort-int8,magic"], "magic"),
        (["--threads", "1,0"], "1,0"),
        (["--rounds", "0"], "not 1 or more"),
        (["--seconds", "0"], "not above 0"),
        (["--model", "nowhere"], "no saved model"),
    ],
)
def test_wrong_options_are_refused_with_a_reason(arguments, message, capsys):
    with pytest.raises(SystemExit):
        bench.parsed(arguments)
    assert message in capsys.readouterr().err


def test_a_trial_has_one_round_and_one_thread_and_chooses_no_threshold():
    args = bench.parsed(["--short"])
    assert (args.threads, args.rounds, args.epochs, args.threshold) == ([1], 1, 1, 0.9)


def test_what_fails_in_a_worker_is_told_and_what_needs_it_is_passed_over(tmp_path, monkeypatch):
    def broken(order, target):
        target.mkdir()
        raise OSError("disk full")

    made = engine_candidates.Artefact(lambda order, target: target.mkdir())
    stubs = {
        "transformer": engine_candidates.Artefact(broken),
        "onnx": engine_candidates.Artefact(made.make, after=("transformer",)),
        "tfidf": made,
    }
    monkeypatch.setattr(engine_worker, "artefacts", lambda: stubs)
    order = {"train": {"texts": [], "labels": []}, "epochs": 1}
    job = {"root": str(tmp_path), "make": list(stubs), "order": order, "engines": ["ort-fp32"]}
    answer = engine_worker.answer(job)
    assert answer["failed"] == {"making transformer": "OSError: disk full"}
    assert list(answer["make_seconds"]) == ["tfidf"] and answer["engines"] == {}
    assert [path.name for path in tmp_path.iterdir()] == ["tfidf"]


def test_batches_are_full_and_in_order():
    assert engine_worker.batches(["a", "b", "c", "d", "e"], 2) == [["a", "b"], ["c", "d"]]


def test_a_file_is_answered_in_the_chunks_of_its_engine():
    asked: list[int] = []

    def predict(texts):
        asked.append(len(texts))
        return texts

    texts = list("abcdefg")
    assert engine_worker.answered(Loaded(predict, file_rows=3), texts) == texts
    assert engine_worker.answered(Loaded(predict, file_rows=0), texts) == texts
    assert asked == [3, 3, 1, 7]


def test_inputs_are_used_in_turn_and_the_warm_up_is_not_counted():
    asked: list[str] = []
    elapsed = engine_worker.timed(asked.append, ["a", "b"], 1.0)
    assert asked[:6] == ["a", "b", "a", "b", "a", "b"]
    assert len(elapsed) == len(asked) - 2 <= engine_worker.MOST_CALLS
    assert len(engine_worker.timed(asked.append, ["a"], 1e-9, warm=True)) == 1


def test_padding_reaches_the_guide_s_width_and_changes_no_token(tmp_path, tiny_folder):
    read, wide = (engine_candidates._Reader(tiny_folder, tiny_folder, width) for width in (0, 128))
    (ids, mask), (more, longer) = (one(["save tax", "tax"]) for one in (read, wide))
    assert more.shape == longer.shape == (2, 128)
    assert (more[:, : ids.shape[1]] == ids).all() and longer.sum() == mask.sum()


@pytest.fixture
def tiny_folder(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = ["[PAD]", "[UNK]", "save", "tax"]
    tokenizer = Tokenizer(
        models.WordPiece({p: n for n, p in enumerate(vocabulary)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    card = {"params": {"glosses": True, "max_length": 128}, "classes": ["tax"]}
    (tmp_path / "model.json").write_text(json.dumps(card))
    return tmp_path


class Stub(bench.Bench):
    """A bench whose workers tell made-up figures; ``broken`` is what fails."""

    broken: tuple[str, ...] = ()

    def worker(self, job, threads):
        answer = {"make_seconds": {}, "engines": {}, "failed": {}, "pieces": [16] * 160}
        for name in job.get("make", ()):
            if name in self.broken:
                answer["failed"][f"making {name}"] = "it is broken"
                continue
            answer["make_seconds"][name] = 1.0
            (self.folder / name).mkdir()
            size = {"transformer": 900, "ours-int8": 200, "static": 20}.get(name, 100)
            (self.folder / name / "weights.json").write_text("0" * size)
        if set(job["engines"]) & set(self.broken):
            raise Failed("it crashed")
        by_text = dict(zip(self.held.texts, self.held.labels, strict=True))
        labels = [by_text[text] for text in job["texts"]]
        answer["engines"] = {name: told(SINGLE[name], labels) for name in job["engines"]}
        return answer


@pytest.fixture
def stub(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "OUTPUT", tmp_path / "out")
    monkeypatch.setattr(engine_candidates, "_present", lambda name: True)
    source = bench.intents()
    chosen = ",".join(SINGLE)

    def make(*broken: str) -> Stub:
        args = bench.parsed(["--engines", chosen, "--rounds", "2"])
        (tmp_path / "work").mkdir()
        one = Stub(args, tmp_path / "work", source)
        one.broken = broken
        return one

    return make


def test_a_run_measures_in_turns_prints_the_marks_and_writes_the_report(stub, tmp_path, capsys):
    one = stub()
    one.measure()
    one.tell()
    printed = capsys.readouterr().out
    assert "Marks: 12 of 12 met" in printed and "median 16 tokens" in printed
    (path,) = (tmp_path / "out").iterdir()
    report = json.loads(path.read_text())
    assert report["quality"][OURS]["agreement"] == 1.0
    assert report["quality"][OURS]["accuracy"]["n"] == len(one.held.texts)
    assert not any(text in path.read_text() for text in one.held.texts if len(text) > 20)


def test_what_fails_is_named_and_the_rest_goes_on(stub, capsys):
    one = stub("onnx-int8", "tfidf")
    one.measure()
    one.tell()
    printed = capsys.readouterr().out
    assert "making onnx-int8 failed: it is broken" in printed
    assert {engine.name for engine in one.chosen} == set(SINGLE) - {"ort-int8", "tfidf"}
    assert len(one.report["failed"]) == 2 and "tfidf not measured" in printed


def test_without_a_transformer_there_is_nothing_to_measure(stub):
    with pytest.raises(NiveshError, match="failed above"):
        stub("transformer").measure()


def test_the_judged_fold_reaches_neither_training_nor_choosing(stub):
    order = stub().order()
    judged = set(bench.intents().split(order["judged"])[1].texts)
    for part in (order["train"]["texts"], other_folds(order["judged"])["query"]):
        assert len(part) and not judged & set(part)


def test_a_given_model_is_not_judged_on_rows_it_may_know(stub):
    one = stub()
    one.args.model = one.folder
    assert "judged" not in one.order()
    for name in SINGLE:
        one.told[1][name] = [told(1.0, one.held.labels)]
    assert list(one.quality([OURS, FP32])[OURS]) == ["agreement"]


def test_a_fold_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(NiveshError, match="--fold 9"):
        bench.Bench(bench.parsed(["--fold", "9"]), tmp_path, bench.intents())


def test_every_engine_has_an_artefact():
    known = engine_candidates.artefacts()
    assert [one.name for one in engines().values() if one.artefact not in known] == []


def test_a_worker_is_told_its_threads_and_to_send_nothing(tmp_path, monkeypatch):
    seen = {}

    def run(command, **options):
        seen.update(options["env"], command=command)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(peers.subprocess, "run", run)
    peers.run_worker(tmp_path / "job.json", 2, "engine_worker")
    assert seen["command"][-2] == "tests.benchmarks.engine_worker"
    assert (seen["CI"], seen["DO_NOT_TRACK"], seen["OMP_NUM_THREADS"]) == ("true", "1", "2")
