from __future__ import annotations

import json
import re

import nbformat
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from nivesh_lib.errors import DataError
from nivesh_lib.ledger import writing
from nivesh_lib.privacy import show
from nivesh_lib.releases import log as release_log
from nivesh_lib.reporting.html import render_notebook, write_report
from nivesh_lib.runs.layout import RunDirectory
from nivesh_lib.runs.leaderboard import verdict_of
from tests.reporting.pages import HOSTILE, Elements, check_page
from tests.runs.examples import comparison, contents, estimate


def page_of(run):
    return write_report(RunDirectory(run)).read_text()


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run directory with two models, a failed step and a hostile label."""
    monkeypatch.setenv("NIVESH_HOME", str(tmp_path))
    judged = {"objective": "accuracy at least 0.99", "status": "not met", "found": "0.7"}
    results = {
        "02_rules": contents("rules", 0.4),
        "03_tfidf": contents("tfidf", 0.7, judgements=[judged], experiment_id="1"),
        "01_data": {"data_card": {"Labels": "<script>alert(1)</script>"}, "headline": "rows"},
    }
    (tmp_path / "results").mkdir()
    for step, record in results.items():
        (tmp_path / "results" / f"{step}.json").write_text(json.dumps(record))
    done = {"status": "done", "seconds": 1.0, "mlflow_run_id": "abc123"}
    failure = {"cause": "timeout", "detail": "a cell took longer", "cell": 3}
    record = {
        "run": "r1",
        "status": "failed",
        "complete": False,
        "profile": "default",
        "dataset": {"ref": "toy@1.0.0", "sha256": "f" * 64, "rows": 1200},
        "started": "2026-01-01",
        "seconds": 3.0,
        "git": {"commit": "c0ffee", "dirty": True},
        "environment": {
            "processor": {"model": "cpu"},
            "cores": 2,
            "python": "3.11",
            "packages": {"mlflow": "3"},
        },
        "steps": dict.fromkeys(results, done) | {"08_x": {"status": "failed", "failure": failure}},
    }
    (tmp_path / "run.json").write_text(json.dumps(record))
    return tmp_path


def test_the_index_ranks_models_and_judges_them(run):
    page = page_of(run)
    assert page.index(">bag of words<") < page.index(">rule set<")
    assert "✘ not met" in page and "Do not release" in page


def test_the_index_says_what_failed_and_that_code_was_dirty(run):
    page = page_of(run)
    assert "timeout: a cell took longer" in page and "uncommitted changes" in page


def test_text_from_data_cannot_become_markup(run):
    assert "<script>" not in page_of(run)


def test_no_name_that_a_report_shows_becomes_markup(run):
    record = json.loads((run / "run.json").read_text())
    record["dataset"]["ref"] = record["profile"] = record["git"]["commit"] = HOSTILE[0]
    record["steps"]["08_x"]["failure"]["detail"] = HOSTILE[1]
    (run / "run.json").write_text(json.dumps(record))
    for number, name in enumerate(HOSTILE):
        judged = {"objective": name, "status": name, "found": name}
        contented = contents(name, 0.5, judgements=[judged], experiment_id=name)
        (run / "results" / f"03_tfidf.{number}.json").write_text(json.dumps(contented))
    elements = check_page(page_of(run))
    assert not elements.of("b") and not elements.of("img")


def test_the_index_is_self_contained_with_a_title_language_and_headings(run):
    page = page_of(run)
    assert '<html lang="en">' in page and "<title>" in page and "viewport" in page
    assert not re.search(r'(src|href)="https?://(?!127\.0\.0\.1)', page)
    assert re.search(r"<h(\d)", page)[1] == "1"
    assert not re.findall(r"<img(?![^>]*alt=)", page)


def test_a_run_without_models_says_so(run):
    for path in (run / "results").glob("0[23]*.json"):
        path.unlink()
    assert "No model was evaluated" in page_of(run)


@pytest.mark.parametrize(
    "odd",
    [
        [],
        "text",
        {"model": "odd", "metrics": {"macro_f1": 0.9}},
        {"model": "odd", "metrics": {"macro_f1": {"value": 0.9, "low": 0.8, "high": 1, "n": 9}}},
        {"model": "odd", "metrics": []},
        contents("odd", 0.9, judgements="none"),
        {"figures": [{"name": "f"}]},
        {"data_card": []},
        {"findings": [{"name": "a", "claim": "no sentence"}]},
        {"findings": [{"name": "a", "claim": "Cells.", "cells": "odd"}]},
        {"findings": [{"name": "a", "claim": "Cells.", "cells": ["odd"]}]},
        {"findings": [{"name": "a", "claim": "Estimate.", "estimate": {"value": 1}}]},
        {"findings": [{"name": "a", "claim": "Verdict.", "verdict": "met"}]},
    ],
)
def test_damaged_results_are_left_out_and_can_be_named(run, odd):
    path = run / "results" / "03_tfidf.json"
    path.write_text(json.dumps(odd))
    assert set(RunDirectory(run).results()) == {"01_data", "02_rules"}
    assert set(RunDirectory(run).damaged()) == {"03_tfidf"}
    page = page_of(run)
    assert ">rule set<" in page and ">bag of words<" not in page
    assert "left no results that can be read" in page


def test_a_damaged_record_is_reported_in_place_of_its_findings(run):
    assert 'id="damaged"' not in page_of(run)
    path = run / "results" / "03_tfidf.embedding.json"  # of a part: no row of the steps table
    path.write_text('{"model": "embed')
    page = page_of(run)
    assert "✘ 03_tfidf.embedding was run, but its record is damaged" in page
    assert "<code>nivesh run --dataset toy@1.0.0 --only 03_tfidf --force</code>" in page
    assert page.index('id="damaged"') < page.index('id="objectives"') < page.index('id="holdout"')


def test_a_damaged_record_of_a_step_that_did_not_finish_is_no_news(run):
    (run / "results" / "08_x.json").write_text("{")
    assert 'id="damaged"' not in page_of(run)


@pytest.mark.parametrize("text", ["[]", "{}", "not JSON", '{"steps": []}'])
def test_a_damaged_run_record_gives_one_clear_error(run, text):
    (run / "run.json").write_text(text)
    with pytest.raises(DataError, match=r"run\.json: not the record of a run.*`nivesh run"):
        write_report(RunDirectory(run))


def validation(*issues):
    return {"validation": {"valid": not issues, "issues": list(issues), "warnings": ["a look"]}}


def test_the_index_lists_what_the_data_check_objects_to(run):
    assert 'id="issues"' not in page_of(run)
    path = run / "results" / "01_data.json"
    path.write_text(json.dumps(validation("label <b> has 1 row")))
    page = page_of(run)
    assert "No: the data did not pass its checks" in page
    assert "<li>01_data: label &lt;b&gt; has 1 row</li>" in page


NONE_SET = {"file": "data/mine/objectives.toml", "missing": "No objective is set for mine."}


def test_a_run_without_objectives_says_so_in_answer_and_section(run):
    path = run / "results" / "03_tfidf.json"
    path.write_text(json.dumps(contents("tfidf", 0.7, objectives=NONE_SET)))
    assert verdict_of(RunDirectory(run).results())[-1] == "No objective is set for mine."
    page = page_of(run)
    assert "Nothing decides: no objectives are set" in page
    assert "<p>No objective is set for mine.</p>" in page


def test_the_objectives_are_shown_with_their_file(run):
    path = run / "results" / "03_tfidf.json"
    told = {"file": "data/mine/objectives.toml", "missing": "", "impact": "Fewer calls"}
    path.write_text(json.dumps({**json.loads(path.read_text()), "objectives": told}))
    page = page_of(run)
    assert "Written down before training, in data/mine/objectives.toml." in page
    assert "Fewer calls</p>" in page


def test_the_page_shows_ranks_differences_and_which_runs_they_came_from(run):
    record = {**comparison(), "mlflow_run_id": "beef" * 8, "experiment_id": "7"}
    (run / "results" / "06_cv.json").write_text(json.dumps(record))
    record_of_run = json.loads((run / "run.json").read_text())
    record_of_run["steps"]["06_cv"] = {"status": "done"}
    (run / "run.json").write_text(json.dumps(record_of_run))
    page = page_of(run)
    assert '<td data-label="Rank">1=</td>' in page and "-0.070 to +0.030, p 0.300" in page
    assert "From 06_cv, MLflow run" in page
    assert "/#/experiments/" not in page  # a store of this machine only
    assert 'title="MLflow run abc123"' in page  # of a model


@pytest.mark.parametrize(
    ("uri", "linked"),
    [
        ("https://mlflow.example", True),
        ("http://127.0.0.1:5000", False),
        ("http://localhost:5000", False),
        ("sqlite:////home/mlflow.db", False),
    ],
)
def test_a_run_is_linked_where_others_can_reach_the_server(run, uri, linked):
    record = json.loads((run / "run.json").read_text()) | {"mlflow_uri": uri}
    (run / "run.json").write_text(json.dumps(record))
    assert (f'href="{uri}/#/experiments/1/runs/abc123"' in page_of(run)) == linked


FINDING = {
    "name": "gaps",
    "claim": "South is served worse.",
    "mark": "no region served worse",
    "verdict": "not met",
    "cells": [
        {"region": "south", "right": 0.512, "right_low": 0.4, "right_high": 0.6, "rows": 1200},
        {"region": "north", "right": None, "right_low": None, "right_high": None, "rows": 3},
    ],
    "plot": {"kind": "bars", "data": {}, "alt": "dots"},
    "examples": [{"query": "rent?", "note": "rent, rightly"}, {"query": "tax?"}],
    "caveats": ["Synthetic data.", "Few rows."],
}


def with_findings(run, *findings, step="01_data", figures=("gaps",)):
    """Give a step findings and figures, and return the page."""
    folder = run / "figures" / step
    folder.mkdir(parents=True, exist_ok=True)
    for name in figures:
        Image.new("RGB", (4, 4)).save(folder / f"{name}.png")
    entries = [
        {"name": name, "file": f"figures/{step}/{name}.png", "title": "t", "alt": f"of {name}"}
        for name in figures
    ]
    record = {"findings": list(findings), "figures": entries, "headline": "a headline"}
    (run / "results" / f"{step}.json").write_text(json.dumps(record))
    return page_of(run)


def test_a_finding_is_shown_with_all_that_it_rests_on(run):
    page = with_findings(run, FINDING)
    assert page.index('id="objectives"') < page.index("<h3>South") < page.index('id="holdout"')
    assert "<h3>South is served worse.</h3>" in page
    assert 'Mark: no region served worse. <span class="notmet">✘ not met</span>' in page
    assert '<td data-label="right"><span class="value">0.51 [0.40, 0.60]</span>' in page
    assert '<td data-label="right"><span class="value"></span>' in page and ">1,200<" in page
    assert '<li>“rent?” <span class="soft">(rent, rightly)</span></li>' in page
    assert "<li>“tax?”</li>" in page and "Synthetic data. Few rows.</p>" in page
    assert len(Elements(page).of("img")) == 1 and 'alt="of gaps"' in page


def test_a_finding_may_be_a_claim_alone(run):
    page = with_findings(run, {"name": "a", "claim": "No column."}, figures=())
    assert "<h3>No column.</h3>" in page and "Not judged" not in page
    assert not Elements(page).of("img")


def test_a_mark_that_was_not_judged_is_shown_as_such(run):
    page = with_findings(run, {"name": "a", "claim": "No column.", "mark": "one"}, figures=())
    assert "Mark: one. Not judged." in page


@pytest.mark.parametrize("cells", [[], [{}], [{"a_low": 1}], [{"a": 1}, {"b": [1]}], [{"low": 1}]])
def test_a_table_may_be_odd(run, cells):
    assert "<h3>Odd.</h3>" in with_findings(run, {"name": "a", "claim": "Odd.", "cells": cells})


def test_steps_come_in_order_with_a_link_to_their_page(run):
    (run / "notebooks").mkdir()
    (run / "notebooks" / "02_rules.html").write_text("page")
    with_findings(run, FINDING, step="02_rules")
    page = with_findings(run, {"name": "a", "claim": "First."})
    assert page.index("<h3>First.</h3>") < page.index("<h3>South")
    assert '<details id="02_rules"><summary><h2>02_rules: 1 more finding</h2>' in page
    assert 'From <a href="notebooks/02_rules.html">02_rules</a>' in page


def test_figures_of_runs_without_findings_are_shown_with_their_headline(run):
    page = with_findings(run, figures=("one", "two"))
    assert 'alt="of one"' in page and 'alt="of two"' in page and "<p>a headline</p>" in page


def test_a_step_links_to_its_drift_page(run):
    assert "Evidently" not in page_of(run)
    folder = run / "drift" / "01_data"
    folder.mkdir(parents=True)
    (folder / "evidently.html").write_text("page")
    assert 'href="drift/01_data/evidently.html"' in page_of(run)


def test_no_text_of_a_finding_becomes_markup(run):
    text = " ".join(HOSTILE)
    finding = {
        "name": text,
        "claim": f"A {text}.",
        "mark": text,
        "verdict": "met",
        "cells": [{text: text}],
        "examples": [{"query": text, "note": text}],
        "caveats": [text],
    }
    elements = check_page(with_findings(run, finding))
    assert not elements.of("b") and not elements.of("script")
    assert all(img["src"].startswith("data:image/png") for img in elements.of("img"))


def test_an_objective_is_judged_once_for_a_model_the_best_model_first(run):
    judged = [{"objective": "macro-F1 at least 0.5", "status": "met", "found": "0.7"}]
    for step, name in (("02_rules", "rules"), ("01_data", "tfidf")):
        record = contents(name, 0.4, judgements=judged * 2)
        (run / "results" / f"{step}.json").write_text(json.dumps(record))
    page = page_of(run)
    assert page.count("macro-F1 at least 0.5</td>") == 2
    page = page[page.index('id="objectives"') :]
    assert page.index(">accuracy at least 0.99<") < page.index("rule set<br>")


OPENING = {
    "who": "asha <b>", "why": "candidate", "reason": "", "commit": "c0ffee11-dirty",
    "model": "tfidf", "model_hash": "abcdef0123", "data": "toy@1.0.0", "sha256": "f", "rows": 300,
}  # fmt: skip


def opened(*changes, scores=None):
    with writing() as ledger:
        for change in changes:
            found = ledger.append("opening", OPENING | change)
        if scores:
            ledger.append("scores", {"opening": found, "scores": scores})


def test_a_holdout_that_was_not_opened_is_reported_as_such(run):
    page = page_of(run)
    assert page.count("The last test, on the holdout of toy@1.0.0, was not made.") == 2
    assert "Held-out rows are for judging" not in page


def test_every_opening_is_shown_with_its_count_and_scores(run):
    opened({}, scores={"accuracy": estimate(0.9), "verdict": "not met", "p95_ms": {"value": 3}})
    opened({"model_hash": "other"}, {"reason": "labels changed", "data": "toy@1.0.0"})
    page = page_of(run)
    assert "opened 3 times, for 2 models. Every further opening makes its scores a little" in page
    assert "accuracy 0.900 (0.850 to 0.950)<br>objectives: not met" in page
    assert page.count("no scores: it is still judging, or ended before there were any") == 2
    assert "opening 3, 300 rows" in page and "its look 2" in page
    assert "again, because: labels changed" in page and "with uncommitted changes" in page
    assert "asha &lt;b&gt;" in page


def test_openings_of_other_data_are_shown_and_not_counted_as_its_own(run):
    opened({"data": "out_of_scope@1.0.0"}, scores={"out_of_scope": estimate(0.6)})
    page = page_of(run)
    assert "The last test, on the holdout of toy@1.0.0, was not made." in page
    assert "out-of-scope queries turned away 0.600" in page


def test_releases_are_listed_with_overrides_and_a_damaged_log_is_told(run):
    line = {"name": "toy_classifier", "version": "1.0.0", "digest": "d", "who": "Asha", "why": "so"}
    gates = [{"name": "accuracy", "verdict": "not met"}, {"name": "size_mb", "verdict": "met"}]
    moved = {
        "stage": "production",
        "override": "a pilot",
        "gates": gates,
        "archive_replaced": False,
    }
    assert 'id="releases"' not in page_of(run)
    with release_log.writing() as log:
        log.append("release", line | {"registered": "1"})
        log.append("promotion", line | moved)
    page = page_of(run)
    assert "1.0.0, promotion to production, by Asha: so" in page
    assert "Although not met: accuracy. Why: a pilot" in page
    path = run / "data" / "release_log.jsonl"
    path.write_text(path.read_text().replace("Asha", "Ravi", 1))
    assert "line 2: does not follow" in page_of(run)


def test_a_damaged_ledger_is_reported_and_stops_no_report(run):
    opened({}, {})
    path = run / "data" / "holdout_ledger.jsonl"
    path.write_text(path.read_text().replace("candidate", "other", 1))
    page = page_of(run)
    assert '<p class="notmet">The ledger of openings is damaged.</p>' in page
    assert "restore it with `git checkout" in page


@pytest.fixture
def notebook():
    image = new_output(
        "display_data", {"image/png": "aGk="}, metadata={"image/png": {"alt": "a bar chart"}}
    )
    warning = new_output("stream", name="stderr", text="DeprecationWarning")
    return new_notebook(
        cells=[
            new_markdown_cell("# 03 · Title"),
            new_code_cell("SECRET_CODE = 1", outputs=[image, warning]),
            new_code_cell("C = 5", metadata={"tags": ["injected-parameters"]}),
            new_markdown_cell("only here", metadata={"tags": ["about-intents"]}),
        ]
    )


def test_a_page_has_figures_with_alt_texts_and_no_code_parameters_or_warnings(notebook):
    page = render_notebook(notebook, step="03_x", dataset="intents@1.1.0")
    assert 'alt="a bar chart"' in page and "<title>03 · Title" in page and "only here" in page
    assert not re.search("SECRET_CODE|injected|DeprecationWarning", page)


def test_remarks_about_the_shipped_data_are_left_out_where_they_do_not_hold(notebook):
    assert "only here" not in render_notebook(notebook, step="03_x", remarks=False)


def test_rendering_leaves_the_notebook_as_it_was(notebook):
    before = nbformat.writes(notebook)
    render_notebook(notebook, step="03_x", remarks=False)
    assert nbformat.writes(notebook) == before


def hostile_outputs():
    for text in HOSTILE:
        table = pd.DataFrame({"query": [text], text: [1]}, index=[text])
        yield new_output("stream", text=text)
        yield new_output("display_data", {"text/markdown": text, "text/plain": text})
        yield new_output("display_data", {"text/html": text, "text/plain": text})
        yield new_output("execute_result", {"text/html": table._repr_html_()})
        yield new_output("execute_result", {"text/html": show(table)._repr_html_()})
        yield new_output("error", ename=text, evalue=text, traceback=[text])
        png = {"image/png": {"alt": f'"{text}'}}
        yield new_output("display_data", {"image/png": "aGk="}, metadata=png)
    yield new_output("display_data", {"application/javascript": "alert(1)"})
    yield new_output("display_data", {"image/svg+xml": "<svg onload=alert(1)></svg>"})
    isolated = {"text/html": {"isolated": True}}
    yield new_output("display_data", {"text/html": HOSTILE[0]}, metadata=isolated)


def test_nothing_that_a_notebook_shows_runs_or_leads_elsewhere():
    title, cells = new_markdown_cell(f"# {HOSTILE[0]}"), list(map(new_markdown_cell, HOSTILE))
    shown = new_code_cell("x", outputs=list(hostile_outputs()))
    page = render_notebook(new_notebook(cells=[title, *cells, shown]), step=HOSTILE[0])
    elements = check_page(page)
    assert [link["href"] for link in elements.of("a") if "href" in link] == [
        "../index.html",
        "http://evil.example",  # of a cell of text, not of an output
    ]
    assert page.count("&lt;b&gt;bold&lt;/b&gt; &amp; &amp;lt;i&amp;gt;") > 5  # tables show labels


def test_links_between_pages_tables_and_text_in_bold_stay():
    cell = new_markdown_cell("Read **next** [03](03_tfidf.ipynb), [all](https://docs.example).")
    table = new_output("execute_result", {"text/html": pd.DataFrame({"a": [1]})._repr_html_()})
    notebook = new_notebook(cells=[cell, new_code_cell("x", outputs=[table])])
    page = render_notebook(notebook, step="02_x")
    assert 'Read <strong>next</strong> <a href="03_tfidf.html">03</a>' in page
    assert '<a href="https://docs.example">all</a>' in page
    assert '<table border="1" class="dataframe">' in page and "<style scoped" not in page


def test_a_second_model_of_a_notebook_is_on_the_board_and_links_to_its_page(run):
    (run / "results" / "03_tfidf.pair.json").write_text(json.dumps(contents("pair", 0.9)))
    (run / "results" / "09_gone.pair.json").write_text(json.dumps(contents("other", 0.95)))
    (run / "notebooks").mkdir(exist_ok=True)
    (run / "notebooks" / "03_tfidf.html").write_text("<p>page</p>")
    page = page_of(run)
    assert "> Pair</p>" in page and "other" not in page
    assert re.search(r'href="notebooks/03_tfidf\.html">\s*pair', page)
