"""The HTML report: one index for a run, and each notebook without its code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nivesh_lib.files import write_text
from nivesh_lib.records.finding import Finding
from nivesh_lib.records.results import ModelResult, ObjectivesFile
from nivesh_lib.records.run import RunRecord
from nivesh_lib.reporting.decision import tiles, top_findings
from nivesh_lib.reporting.holdout import holdout, releases
from nivesh_lib.reporting.markup import cleaned, content_policy
from nivesh_lib.reporting.steps import ShownFinding, StepFindings, findings, source_of, steps
from nivesh_lib.runs.comparison import Results, evaluation_of, p_value, score_title
from nivesh_lib.runs.layout import RunDirectory, notebook_of
from nivesh_lib.runs.leaderboard import (
    LeaderboardEntry,
    comparison_of,
    data_issues,
    leaderboard,
    score_names,
)
from nivesh_lib.wording import human_bytes, milliseconds, model_name

_TEMPLATES = Path(__file__).with_name("templates")
_ABOUT_INTENTS = "about-intents"  # tag of cells that are true of the shipped data and defaults only
_ABOUT_CODE = "about-code"  # tag of cells that refer to the code, which a page does not show


def _render(template: str, *, slides: bool = False, **values: Any) -> str:
    import jinja2
    import markupsafe

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    own = ["page.css", *(["slider.js"] if slides else [])]
    css, *scripts = (
        markupsafe.Markup((_TEMPLATES / name).read_text(encoding="utf-8")) for name in own
    )
    texts = {"css": css, "scripts": scripts, "policy": content_policy(scripts)}
    return environment.get_template(template).render(**texts, **values)


def _without(notebook: Any, *, remarks: bool) -> Any:
    """Return a copy without parameters, warnings, cells about code and remarks that do not hold."""
    import copy

    kept = copy.deepcopy(notebook)
    unwanted = {"parameters", "injected-parameters", _ABOUT_CODE}
    if not remarks:
        unwanted.add(_ABOUT_INTENTS)
    kept.cells = [c for c in kept.cells if not unwanted & set(c.metadata.get("tags", []))]
    for cell in kept.cells:
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
    return kept


def render_notebook(notebook: Any, *, step: str, dataset: str = "", remarks: bool = True) -> str:
    """Return a notebook as one HTML page without code cells or parameters.

    Figures are embedded. Markup of cells is cleaned; no script runs, nothing is fetched.

    Parameters
    ----------
    remarks : bool
        Whether cells about the shipped data are shown; they hold with the default parameters only.
    """
    import markupsafe
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(
        template_name="basic",
        exclude_input=True,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        exclude_anchor_links=True,
        mathjax_url="",
        require_js_url="",
    )
    body, _ = exporter.from_notebook_node(_without(notebook, remarks=remarks))
    return _render(
        "notebook.html.j2",
        title=_title(notebook) or step,
        step=step,
        dataset=dataset,
        body=markupsafe.Markup(cleaned(body).replace('.ipynb"', '.html"')),  # pages link to pages
    )


def _title(notebook: Any) -> str:
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            return cell.source.splitlines()[0].lstrip("# ")
    return ""


def _damaged(run: RunDirectory, record: RunRecord) -> list[dict[str, str]]:
    """Return name and step of the results of finished steps that cannot be read."""
    named = [(name, notebook_of(name)) for name in run.damaged()]
    return [
        {"name": name, "step": step}
        for name, step in named
        if step in record.steps and record.steps[step].done
    ]


def _judgements(results: Results, board: list[LeaderboardEntry]) -> list[dict[str, Any]]:
    """Return the verdicts on objectives, one for each model and objective, best model first."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for name, result in results.items():
        for judged in result.judgements if isinstance(result, ModelResult) else []:
            row = {**dict(judged), "model": result.model, "result": name}
            found.setdefault((result.model, judged.objective), row)
    known = {entry.model: place for place, entry in enumerate(board)}
    return sorted(found.values(), key=lambda judged: known.get(judged["model"], len(board)))


def _objectives(results: Results) -> ObjectivesFile:
    """Return the file of the objectives, and a sentence where it sets none."""
    found = (r.objectives for r in results.values() if isinstance(r, ModelResult) and r.objectives)
    return next(found, ObjectivesFile(file="", missing=""))


def _opened(
    steps: Sequence[StepFindings], top: Sequence[Finding]
) -> tuple[list[ShownFinding], list[StepFindings]]:
    """Return the findings that are shown open, in the order of ``top``, and the steps' others."""
    place = {id(finding): rank for rank, finding in enumerate(top)}
    shown = [one for step in steps for one in step.findings]
    opened = [one for one in shown if id(one.finding) in place]
    folded = [
        replace(step, findings=tuple(one for one in step.findings if id(one.finding) not in place))
        for step in steps
    ]
    left = [step for step in folded if step.findings or step.figures or step.drift_page]
    return sorted(opened, key=lambda one: place[id(one.finding)]), left


def write_report(run: RunDirectory, record: RunRecord | None = None) -> Path:
    """Write ``index.html`` of a run directory from its records and results; return its path.

    Parameters
    ----------
    record : RunRecord, optional
        The record of the run, where it is not written yet.

    Raises
    ------
    DataError
        ``run.json`` is missing or is not the record of a run.
    """
    record = record or run.record()
    results = {
        name: result
        for name, result in run.results().items()
        if (step := record.steps.get(notebook_of(name))) and step.done
    }
    board = leaderboard(results)
    shown_scores = score_names(entry.scores for entry in board)
    names = [*results, *record.steps]
    shown = findings(run, results)
    top, folded = _opened(shown, top_findings(results))
    anchors = {id(one.finding): one.anchor for step in shown for one in step.findings}
    held = holdout(record.dataset.ref)
    page = _render(
        "index.html.j2",
        run=record,
        tiles=tiles(results, record.dataset.ref, held["sentence"]),
        issues=data_issues(results),
        board=board,
        scores=[(name, score_title(name)) for name in shown_scores[1:]],
        comparison=comparison_of(results),
        evaluated=(evaluation_of(results) or ("",))[0],
        judgements=_judgements(results, board),
        objectives=_objectives(results),
        top=top,
        slides=any(one.finding.plot and one.finding.plot.kind == "thresholds" for one in top),
        anchor=lambda finding: anchors.get(id(finding), ""),
        findings=folded,
        damaged=_damaged(run, record),
        sources={name: source_of(run, name, record, results.get(name)) for name in names},
        p_value=p_value,
        model_name=model_name,
        human_bytes=human_bytes,
        milliseconds=milliseconds,
        card=next((r.data_card for r in results.values() if r.data_card), None),
        steps=steps(run, record, results),
        holdout=held,
        releases=releases(record.dataset.ref),
    )
    write_text(run.index, page)
    return run.index
