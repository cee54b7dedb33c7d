from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import EvalResult, ModelCard

from nivesh_lib.errors import DataError
from nivesh_lib.records.estimate import Estimate
from nivesh_lib.records.finding import Finding
from nivesh_lib.records.release import AnsweredRow, Gate, InPlace, Release
from nivesh_lib.records.results import StepResult
from nivesh_lib.releases import card
from nivesh_lib.releases.card import model_card, write_card
from nivesh_lib.releases.package import Package
from nivesh_lib.releases.release import _findings
from nivesh_lib.wording import human_bytes

SHOWN = (
    *("out_of_scope", "abstention", "fairness", "handover_by_segment", "would_help"),
    *("doubtful_labels", "accuracy", "calibration_error", "min_confidence"),
)
ORDER = (
    *("Model Details", "Uses", "Bias, Risks, and Limitations"),
    *("How to Get Started with the Model", "Training Details", "Evaluation", "Gates"),
    "Technical Specifications",
)
# Digits that are no results: names of methods, and the level that every `Estimate` has.
WORDS = {"macro-F1", "sha256", "p95", "95"}


@dataclass(frozen=True)
class Records:
    release: Release
    rows: list[AnsweredRow]
    findings: dict[str, Finding]
    history: list[dict[str, object]]
    manifest: dict[str, object]

    def card(self, monkeypatch, **changed) -> ModelCard:
        version = SimpleNamespace(manifest=self.manifest)
        monkeypatch.setattr(card, "resolve", lambda ref: version)
        release = self.release.changed(**changed)
        return model_card(release, self.rows, self.findings, self.history)


def records(k: int) -> Records:
    """Return the records of a release of which no number is also in those of another ``k``."""
    share = 0.8 + k / 37
    score = {"value": share + 0.0011, "low": share - 0.0412, "high": share + 0.0323, "n": 3301 + k}
    f1 = {"value": share - 0.0107, "low": share - 0.0641, "high": share + 0.0219, "n": 4301 + k}
    p95 = {"value": 21.37 + k, "low": 18.44 + k, "high": 29.63 + k, "n": 5201 + k}
    slices = [
        {"slice": f"language={name}", "rows": rows, "accuracy": at + 0.0037}
        | {"accuracy_low": at - 0.0523, "accuracy_high": at + 0.0418, "macro_f1": at - 0.0713}
        for name, rows, at in (("en", 2211 + k, share), ("hinglish", 1113 + k, share - 0.013))
    ]
    gates = [
        Gate(name="accuracy", mark=f"at least 0.9{k}7", verdict="not met", found=f"0.8{k}3"),
        Gate(name="latency", mark=f"at most 7{k}.5 ms", verdict="met", found=f"3{k}.1 ms"),
        Gate(name="size", mark=f"at most 8{k} MB", verdict="met", found=f"6{k}.9 MB"),
    ]
    release = Release(
        name="intent_classifier",
        version=f"{k + 1}.{k + 2}.0",
        digest=f"d{k}" * 8,
        base=f"b{k}" * 8,
        kind="calibrated",
        algorithm="ensemble",
        temperature=0.4153 + k / 10,
        min_confidence=0.61 + k / 20,
        labels=[f"label_{'abcdefghij'[n]}" for n in range(6 + k)],
        response=["intent", "confidence"],
        dataset=f"intents@{k + 5}.1.0",
        data_sha256=f"e{k}" * 8,
        commit=f"c0ffee{k}",
        lock_sha256=f"f{k}" * 8,
        run=f"2026113{k}-135510",
        step=f"0{k + 4}_step",
        parameters={"C": 12.25 + k, "BACKBONE": "minilm"},
        train_seconds=1267.31 + k,
        size_bytes=185_691_107 + 1_000_000 * k,
        rows=3401 + k,
        metrics={"accuracy": score, "macro_f1": f1, "p95_ms": p95},
        slices=slices,
        openings=[f"a{k}" * 8],
        in_place=InPlace(version=f"{k}.9.4", digest=f"ab{k}" * 5, won=717 + k, lost=53 + k),
        predecessor=f"{k}.9.3",
        bump=["MINOR: another kind of model"],
        changes=[f"labels: {k + 81} before"],
        gates={"staging": gates[1:], "production": gates},
        who="Asha",
        why=f"candidate {k}a",
        created=f"2026-12-0{k}T10:00:00+00:00",
        environment={"python": f"3.11.{k}"},
    )
    rows = [
        AnsweredRow(
            id=f"int-{k}{37 * n:04}", label="tax", predicted="loan", confidence=0.5, before="tax"
        )
        for n in range(53 + k)
    ]
    findings = {
        name: Finding(
            name=name,
            claim=f"Of {name.replace('_', ' ')}, {k}{n}.3 of 100{k} are right.",
            estimate=Estimate(0.5, 0.4, 0.6, 100),
            mark=f"at least 7{n}{k}",
            verdict="undecided",
            caveats=[f"Only {n}1{k} rows.", f"All of {k}."],
        )
        for n, name in enumerate(SHOWN)
    }
    aged = Gate(name="hours", mark=f"at least 2{k}", verdict="not met", found=f"1.{k} hours")
    moved = {
        "kind": "promotion",
        "version": release.version,
        "stage": "production",
        "override": f"Diwali {k}th",
        "who": "Ravi",
        "why": f"pilot {k}b",
        "timestamp": f"2026-12-1{k}T08:00",
        "gates": [gate.as_dict() for gate in (gates[0], aged, gates[1])],
    }
    return Records(
        release=release,
        rows=rows,
        findings=findings,
        history=[
            {"kind": "release", "version": release.version, "why": "not shown"},
            moved,
            {**moved, "version": "9.9.9", "override": "of another version"},
        ],
        manifest={
            "task": "intent_classification",
            "description": f"queries of {k + 41} people",
            "sources": ["written by language models"],
            "licence": "CC-BY-4.0",
            "rows": 61_500 + k,
            "holdout": [f"int-{n}" for n in range(3401 + k)],
        },
    )


def tokens(text: str) -> set[str]:
    """Return the words of a text that have a digit."""
    found = (word.strip(".,;:") for word in re.split(r'[\s|()\[\]*`"/]+', text))
    return {word for word in found if re.search(r"\d", word)}


def strings(value: object) -> list[str]:
    if isinstance(value, dict):
        return [text for one in value.values() for text in strings(one)]
    if isinstance(value, list):
        return [text for one in value for text in strings(one)]
    return [value] if isinstance(value, str) else []


def derived(one: Records) -> set[str]:
    """Return the numbers that a card of these records may show, worked out anew from them."""
    release, manifest = one.release, one.manifest
    lost = [row for row in one.rows if row.before == row.label != row.predicted]
    texts = strings(release.as_dict()) + strings([row.as_dict() for row in lost[:10]])
    texts += strings([found.as_dict() for found in one.findings.values()])
    texts += strings(one.history[:2])
    texts += [
        str(manifest["description"]),
        str(manifest["licence"]),
        *map(str, release.parameters.values()),
    ]
    scores = [release.metrics[name] for name in ("accuracy", "macro_f1")]
    scores += [
        {"value": row["accuracy"], "low": row["accuracy_low"], "high": row["accuracy_high"]}
        | {"n": row["rows"]}
        for row in release.slices
    ]
    for score in scores:
        texts += [f"{score[end]:.3f}" for end in ("value", "low", "high")] + [f"{score['n']:,}"]
    texts += [f"{release.metrics['p95_ms'][end]:.1f}" for end in ("value", "low", "high")]
    counts = [release.rows, manifest["rows"], len(manifest["holdout"]), len(release.labels)]
    counts += [release.in_place.won, release.in_place.lost, len(lost) - 10]
    staging, production = release.gates["staging"], one.history[1]["gates"]
    counts += [len(staging), sum(gate.verdict == "met" for gate in staging)]
    counts += [len(production), sum(gate["verdict"] == "met" for gate in production)]
    texts += [f"{count:,}" for count in counts]
    texts += [f"{release.train_seconds:,.1f}", f"{release.size_bytes / 1e6:.1f}"]
    texts += [f"{release.temperature:.3g}", f"{release.min_confidence:g}"]
    return set().union(*map(tokens, texts))


def strange(text: str, one: Records) -> set[str]:
    """Return the numbers in a text that are neither in the records nor follow from them."""
    return tokens(text) - derived(one) - WORDS


ONE, OTHER = records(1), records(3)


@pytest.mark.parametrize("one", [ONE, OTHER])
def test_every_number_of_a_card_is_derived_from_the_records(one, monkeypatch):
    text = one.card(monkeypatch).text
    assert len(tokens(text)) > 90 and strange(text, one) == set()


def test_every_number_of_its_metadata_is_that_of_a_record(monkeypatch):
    data = ONE.card(monkeypatch).data
    results = {result.metric_type: result for result in data.eval_results}
    for metric, name in (("accuracy", "accuracy"), ("f1", "macro_f1")):
        assert results[metric].metric_value == ONE.release.metrics[name]["value"]
        assert results[metric].dataset_revision == "6.1.0"


def test_a_number_that_is_changed_by_hand_is_found(monkeypatch):
    """Each number of the card in turn, its last digit another one."""
    text, known, number = ONE.card(monkeypatch).text, derived(ONE) | WORDS, r"\d[\d,.]*\d(?!\w)"
    places = [one for one in re.finditer(rf"(?<![\w.]){number}", text) if one[0] not in WORDS]
    missed = [
        (place[0], digit)
        for place in places
        for digit in set("0123456789") - {place[0][-1]}
        if tokens(text[: place.end() - 1] + digit + text[place.end() :]) <= known
    ]
    # The rest are neighbours: the record has both numbers.
    assert len(places) > 60 and len(missed) < 0.03 * 9 * len(places), missed


@pytest.mark.parametrize(
    ("expression", "typed"),
    [
        ("{{ release.in_place.won }}", "718"),
        ('{{ "%.3f"|format(score.value) }}', "0.828"),
        ('{{ "%g"|format(release.min_confidence) }}', "0.66"),
        ("{{ human_bytes(release.size_bytes) }}", "186.7 MB"),
        ("{{ release.commit or", "{{ 'c0ffee1' or"),
    ],
)
def test_a_number_that_is_typed_into_the_template_is_found(
    expression, typed, monkeypatch, tmp_path
):
    """It is right for one release, so another one shows it."""
    template = (card._TEMPLATES / "card.md.j2").read_text()
    assert expression in template
    (tmp_path / "card.md.j2").write_text(template.replace(expression, typed))
    monkeypatch.setattr(card, "_TEMPLATES", tmp_path)
    found = [strange(one.card(monkeypatch).text, one) for one in (ONE, OTHER)]
    assert found[0] == set() != found[1]


def test_the_template_has_no_digit_but_in_names_of_methods():
    template = (card._TEMPLATES / "card.md.j2").read_text()
    assert tokens(re.sub(r"{{.*?}}|{%.*?%}", "", template, flags=re.DOTALL)) <= WORDS
    assert "95 % interval" in str(Estimate.__doc__)


def test_it_is_a_card_of_the_hub_that_survives_a_round_trip(monkeypatch):
    made = ONE.card(monkeypatch)
    read = ModelCard(str(made))
    assert read.data.to_dict() == made.data.to_dict() and read.text.strip() == made.text.strip()
    accuracy, _ = read.data.eval_results
    assert accuracy == EvalResult(
        task_type="text-classification",
        dataset_type="intents",
        dataset_name="intents",
        dataset_split="test",
        dataset_revision="6.1.0",
        metric_type="accuracy",
        metric_name="accuracy",
        metric_value=ONE.release.metrics["accuracy"]["value"],
    )
    fields = {"language": ["en"], "license": "cc-by-4.0", "datasets": ["intents"]}
    assert {name: read.data.get(name) for name in fields} == fields
    assert read.data.tags == ["intent_classification", "calibrated", "hinglish"]


def test_its_sections_are_in_the_order_of_the_hub(monkeypatch):
    text = ONE.card(monkeypatch).text
    assert tuple(re.findall(r"^## (.+)$", text, re.MULTILINE)) == ORDER
    assert not re.search(r"\n\n\n|undefined|None\b", text.replace("None.", ""))


def test_scores_and_slices_stand_in_tables(monkeypatch):
    text = ONE.card(monkeypatch).text
    assert "| accuracy | 0.828 | 0.786 to 0.859 | 3,302 |" in text
    assert "| macro-F1 | 0.816 | 0.763 to 0.849 | 4,302 |" in text
    assert "| language: hinglish | 0.818 | 0.762 to 0.856 | 1,114 |" in text


def test_the_claims_of_findings_are_shown_with_marks_and_caveats(monkeypatch):
    text = ONE.card(monkeypatch).text
    for found in ONE.findings.values():
        assert f"- {found.claim} Mark: {found.mark}, undecided." in text
        assert all(f"- *Caveat:* {caveat}" in text for caveat in found.caveats)
    fairness = text.partition("### Fairness")[2].partition("###")[0]
    assert "**Not established.**" in fairness
    assert fairness.count("All of 1.") == 1, "a caveat that two findings share is said once"


def test_findings_that_are_absent_are_said_to_be_no_part_of_the_run(monkeypatch):
    text = Records(ONE.release, ONE.rows, {}, [], ONE.manifest).card(monkeypatch).text
    assert text.count("not part of the run.") == len(SHOWN)
    assert "- Handover by segment: not part of the run." in text and "**Not judged.**" in text
    assert strange(text, ONE) == set()


def test_gates_are_shown_by_stage_with_verdict_and_counted_on_top(monkeypatch):
    text = Records(ONE.release, ONE.rows, {}, [], ONE.manifest).card(monkeypatch).text
    assert "- **Staging:** 2 of 2 marks are shown to be reached.\n" in text
    assert "- **Production:** 2 of 3 marks are shown to be reached; not: accuracy.\n" in text
    assert "| accuracy | at least 0.917 | 0.813 | not met |" in text
    assert text.count("- Not promoted to it yet; judged when it was released.") == 2


def test_gates_of_a_stage_are_those_of_its_promotion(monkeypatch):
    text = ONE.card(monkeypatch).text
    assert "1 of 3 marks are shown to be reached; not: accuracy, hours.\n" in text
    production = text.partition("### Production")[2].partition("###")[0]
    assert "- Promoted 2026-12-11T08:00 by Ravi: pilot 1b\n" in production
    assert "| hours | at least 21 | 1.1 hours | not met |" in production
    assert "size" not in production and "| size |" in text


def test_an_override_is_told_on_top_and_with_its_reason_and_hides_no_verdict(monkeypatch):
    text = ONE.card(monkeypatch).text
    top, _, rest = text.partition("## Model Details")
    assert "**Promoted to production although not all are:**" in top
    assert "by Ravi, although not met: accuracy, hours. Why: Diwali 1th\n" in rest
    assert "| not met |" in rest and "of another version" not in text


def test_rows_that_were_right_and_are_wrong_now_are_named_at_most_ten(monkeypatch):
    text = ONE.card(monkeypatch).text
    named = re.findall(r"^- (int-\d+): tax, was right, now loan$", text, re.MULTILINE)
    assert named == [row.id for row in ONE.rows[:10]] and "- 44 more in rows.json" in text


def test_without_release_in_place_slices_parameters_or_times(monkeypatch):
    bare = Records(ONE.release, ONE.rows, ONE.findings, [], ONE.manifest)
    text = bare.card(
        monkeypatch,
        in_place=None,
        slices=[],
        parameters={},
        metrics={"accuracy": ONE.release.metrics["accuracy"]},
        train_seconds=None,
        temperature=None,
        min_confidence=None,
        gates={},
        predecessor="",
        base="",
    ).text
    assert "There was none to compare with." in text and "| Slice |" not in text
    assert "No slice has enough rows" in text and "None was judged." in text
    assert text.count("not measured") == 2 and "- **Release before:** none" in text
    assert "as the model states it" in text and "is for a person to give" not in text


def test_another_dataset_without_licence_sources_and_languages(monkeypatch):
    other = Records(ONE.release, [], {}, [], {"task": "topics", "rows": 20, "holdout": ["a"]})
    made = other.card(monkeypatch, dataset="tickets@1.0.0", slices=[], algorithm="my_model")
    assert "language" not in made.data.to_dict() and made.data.license == "unknown"
    assert made.data.datasets == ["tickets"] and made.text.count("not stated") == 3
    assert "Texts of the kind that it was trained on: tickets@1.0.0" in made.text


@pytest.mark.parametrize(
    ("licence", "fields"),
    [
        ("Apache-2.0", {"license": "apache-2.0"}),
        ("ours: ask first", {"license": "other", "license_name": "ours: ask first"}),
    ],
)
def test_a_licence_that_is_no_id_is_named(licence, fields, monkeypatch):
    manifest = {**ONE.manifest, "licence": licence}
    made = Records(ONE.release, [], {}, [], manifest).card(monkeypatch)
    data = ModelCard(str(made)).data.to_dict()
    assert {name: data.get(name) for name in fields} == fields


EVIL = 'a | b\n\n# title\n---\n<script>alert("x")</script> [here](http://evil) `x` {{ 7 * 7 }}'


def test_texts_of_people_cannot_add_markup(monkeypatch):
    gates = {"production": [Gate(name="g", mark="m", verdict="met", found=EVIL, why=EVIL)]}
    row = AnsweredRow(id=EVIL, label=EVIL, predicted="loan", confidence=0.5, before=EVIL)
    entry = ONE.history[1] | {"override": EVIL, "who": EVIL, "why": EVIL}
    entry["gates"] = [gates["production"][0].as_dict()]
    evil = Records(ONE.release, [row], ONE.findings, [entry], ONE.manifest)
    changed = {"gates": gates, "why": EVIL, "who": EVIL, "labels": [EVIL], "changes": [EVIL]}
    made = evil.card(monkeypatch, **changed)
    assert made.data.to_dict() == ModelCard(str(made)).data.to_dict()
    assert not re.search(r"^(# title|---)|<script|\]\(http", made.text, re.MULTILINE)
    (line,) = [line for line in made.text.splitlines() if line.startswith("| g | m |")]
    assert line.count("|") == 6 and "{{ 7 * 7 }}" in line
    assert [*re.findall(r"^## (.+)$", made.text, re.MULTILINE)] == [*ORDER]


def test_a_card_of_shipped_data_is_read_from_its_manifest():
    release = ONE.release.changed(dataset="intents@1.1.0", data_sha256="231f")
    text = model_card(release, ONE.rows, ONE.findings, []).text
    assert "- **Rows:** 1,500 in all, 300 of them held out" in text
    assert "- **Sources:** written by language models; selected by a model" in text


def test_a_dataset_that_is_gone_is_an_error():
    with pytest.raises(DataError, match="no dataset 'gone'"):
        model_card(ONE.release.changed(dataset="gone@1.0.0"), [], {})


def test_no_network_is_used(monkeypatch):
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a card needs no network")

    monkeypatch.setattr(ModelCard, "validate", refuse)
    monkeypatch.setattr("socket.socket.connect", refuse)
    assert ONE.card(monkeypatch).data.model_name == ONE.release.name


def test_a_card_is_written_from_the_package_and_the_log(home, monkeypatch):
    monkeypatch.setattr(card, "resolve", lambda ref: SimpleNamespace(manifest=ONE.manifest))
    package = Package.of(ONE.release.name, ONE.release.version)
    package.write(ONE.release, ONE.rows, ONE.findings)
    for history, shown in (([], False), (ONE.history, True)):  # written anew by a promotion
        monkeypatch.setattr(card, "read_log", lambda name, history=history: history)
        write_card(package)
        text = ModelCard.load(package.card).text
        assert ONE.findings["fairness"].claim in text
        assert ("Why: Diwali 1th" in text) == shown


def test_findings_about_other_models_stay_out_of_a_card():
    """Drift is watched with a model of its own, and its finding has a name that others have."""
    results = {
        name: StepResult(model=model, findings=[Finding(name=kind, claim=f"Said by {name}.")])
        for name, model, kind in (
            ("03_tfidf", "tfidf", "accuracy"),
            ("05_step", "ensemble", "accuracy"),
            ("06_cv", "ensemble", "fairness"),
            ("07_small", "ensemble", "accuracy"),
            ("08_drift", "", "accuracy"),
        )
    }
    ready = SimpleNamespace(run=SimpleNamespace(results=lambda: results), step="05_step")
    said = {name: one.claim for name, one in _findings(ready).items()}
    assert said == {"accuracy": "Said by 05_step.", "fairness": "Said by 06_cv."}
    assert _findings(SimpleNamespace(run=None, step="")) == {}


def test_a_package_that_is_elsewhere_has_no_card_written(home):
    write_card(Package.of("intent_classifier", "1.0.0"))
    assert not (home / "reports").exists()


def test_sizes_are_told_as_elsewhere(monkeypatch):
    assert f"- **Size:** {human_bytes(ONE.release.size_bytes)}" in ONE.card(monkeypatch).text


def test_the_template_is_part_of_the_package():
    assert Path(card._TEMPLATES, "card.md.j2").is_file()
    project = Path(card.__file__).parents[2] / "pyproject.toml"
    assert '"releases/templates/*"' in project.read_text()
