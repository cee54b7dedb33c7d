"""The steps of a run as the report shows them: pages, outcomes, MLflow runs and findings."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import dataclass

from nivesh_lib.records.finding import Finding
from nivesh_lib.records.results import StepResult
from nivesh_lib.records.run import RunRecord, StepRecord
from nivesh_lib.reporting.findings import shown_table
from nivesh_lib.runs.comparison import Results
from nivesh_lib.runs.layout import RunDirectory, notebook_of

# A server that whoever reads the page elsewhere may reach as well.
_LINKED = re.compile(r"https?://(?!localhost|127\.|\[::1\])")


@dataclass(frozen=True)
class Source:
    """The source of a result: its step, page, MLflow run id and the address of that run.

    All but the step may be empty.
    """

    step: str
    page: str
    run_id: str
    mlflow: str


@dataclass(frozen=True)
class StepRow:
    """One step of a run with its outcome as text; ``seconds`` is empty where it did not run."""

    step: str
    source: Source
    done: bool
    outcome: str
    seconds: float | str


def source_of(run: RunDirectory, name: str, record: RunRecord, result: StepResult | None) -> Source:
    """Return the source of a result.

    Parameters
    ----------
    name
        Of the result: the step, or ``<step>.<part>``.
    result
        Its MLflow run id takes precedence over that of the step.
    """
    entry = record.steps.get(notebook_of(name))
    run_id = (result and result.mlflow_run_id) or (entry and entry.mlflow_run_id) or ""
    experiment = result.experiment_id if result else ""
    server = record.mlflow_uri if _LINKED.match(record.mlflow_uri) else ""
    mlflow = f"{server}/#/experiments/{experiment}/runs/{run_id}" if server and run_id else ""
    return Source(notebook_of(name), run.page(name), run_id, mlflow)


def _small_png(run: RunDirectory, name: str) -> bytes | None:
    """Return a figure of a run as PNG with 64 colours, a third of the size of the file.

    None where the file is missing, is no image or is outside the run's figures.
    """
    from PIL import Image

    path = run.path / name
    if not path.resolve().is_relative_to(run.folder("figures", "").resolve()):
        return None  # a record can name any file; only a run's figures belong on its page
    buffer = io.BytesIO()
    try:
        with Image.open(path) as image:
            image.convert("RGB").quantize(64).save(buffer, "PNG", optimize=True)
    except OSError:
        return None
    return buffer.getvalue()


@dataclass(frozen=True)
class ShownFinding:
    """A finding with its table as text, the first column first, and its figure, if it has them.

    ``anchor`` is its place on the page.
    """

    finding: Finding
    anchor: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    figure: ShownFigure | None


@dataclass(frozen=True)
class ShownFigure:
    """A figure as base64 of its PNG, with its alternative text."""

    data: str
    alt: str


@dataclass(frozen=True)
class StepFindings:
    """What one result holds for readers; ``figures`` are those that belong to no finding.

    ``drift_page`` is the address of Evidently's page, or empty.
    """

    name: str
    headline: str
    findings: tuple[ShownFinding, ...]
    figures: tuple[ShownFigure, ...]
    drift_page: str


def findings(run: RunDirectory, results: Results) -> list[StepFindings]:
    """Return findings and figures of each result that has any, in the order of the steps."""
    shown = []
    for name, result in results.items():
        pictures = _figures(run, result)
        own = tuple(_shown(one, name, pictures.pop(one.name, None)) for one in result.findings)
        page = run.drift_page(name)
        if own or pictures or page:
            others = tuple(pictures.values())
            shown.append(StepFindings(name, result.headline, own, others, page))
    return shown


def _figures(run: RunDirectory, result: StepResult) -> dict[str, ShownFigure]:
    """Return the figures of a result by name."""
    files = {figure.name: (_small_png(run, figure.file), figure.alt) for figure in result.figures}
    return {
        name: ShownFigure(base64.b64encode(png).decode(), alt)
        for name, (png, alt) in files.items()
        if png
    }


def _shown(finding: Finding, result: str, figure: ShownFigure | None) -> ShownFinding:
    anchor = f"{result}.{finding.name}".replace(" ", "-")
    if not any(finding.cells):
        return ShownFinding(finding, anchor, (), (), figure)
    table = shown_table(finding).reset_index()
    rows = tuple(tuple(map(str, row)) for row in table.itertuples(index=False))
    return ShownFinding(finding, anchor, tuple(map(str, table.columns)), rows, figure)


def _outcome(entry: StepRecord, result: StepResult | None) -> str:
    if entry.done:
        reused = " (nothing changed, reused)" if entry.cached_from else ""
        if result is None:
            return "done, but left no results that can be read" + reused
        return result.headline + reused
    if entry.status == "skipped":
        return f"skipped: {entry.why}"
    failure = entry.failure
    return f"failed: {failure.cause}: {failure.detail}" if failure else "failed"


def steps(run: RunDirectory, record: RunRecord, results: Results) -> list[StepRow]:
    """Return one row for each step of a run, in the order of their names."""
    return [
        StepRow(
            step,
            source_of(run, step, record, results.get(step)),
            entry.done,
            _outcome(entry, results.get(step)),
            entry.seconds or "",
        )
        for step, entry in sorted(record.steps.items())
    ]
