"""The steps of a run as the report shows them: pages, outcomes, MLflow runs and figures."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_UI = "http://127.0.0.1:5000"


@dataclass(frozen=True)
class Source:
    """Where a number is from; ``page``, ``run_id`` and ``mlflow`` (an address) may be empty."""

    step: str
    page: str
    run_id: str
    mlflow: str


def source_of(run: Path, name: str, record: Mapping[str, Any], result: Mapping[str, Any]) -> Source:
    """Return the source of a result: its notebook's page and its MLflow run.

    Parameters
    ----------
    name
        Of the result: the step, or ``<step>.<part>``.
    record, result
        ``run.json`` and the result, whose own run id counts.
    """
    entry = record["steps"].get(notebook_of(name), {})
    run_id = str(result.get("mlflow_run_id") or entry.get("mlflow_run_id") or "")
    experiment = result.get("experiment_id")
    mlflow = f"{_UI}/#/experiments/{experiment}/runs/{run_id}" if experiment and run_id else ""
    return Source(notebook_of(name), page_of(run, name), run_id, mlflow)


def _small_png(run: Path, name: str) -> bytes | None:
    """Return a run's figure with 64 colours: plots need no more, and it is a third of the size.

    None where there is none, or something else.
    """
    from PIL import Image

    path = run / name
    if not path.resolve().is_relative_to((run / "figures").resolve()):
        return None  # a record can name any file; only a run's figures belong on its page
    buffer = io.BytesIO()
    try:
        with Image.open(path) as image:
            image.convert("RGB").quantize(64).save(buffer, "PNG", optimize=True)
    except OSError:
        return None
    return buffer.getvalue()


def figures(run: Path, results: Mapping[str, Mapping[str, Any]]) -> list[dict[str, str]]:
    """Return the figures that steps left, as base64 PNG with title, alternative text and page.

    ``id`` is what a link on the page may point to.
    """
    shown: list[dict[str, str]] = []
    for step, result in results.items():
        for figure in result.get("figures", []):
            png = _small_png(run, figure["file"])
            if png:
                data = base64.b64encode(png).decode()
                at = {"id": f"figure-{len(shown) + 1}", "step": step, "page": page_of(run, step)}
                shown.append({**figure, "data": data, **at})
    return shown


def notebook_of(name: str) -> str:
    """Return the notebook that left a result: one may leave several, ``<notebook>.<part>``."""
    return name.partition(".")[0]


def page_of(run: Path, step: str) -> str:
    """Return the address of a notebook's page, or nothing where there is none."""
    page = f"notebooks/{notebook_of(step)}.html"
    return page if (run / page).is_file() else ""


def _outcome(step: str, entry: Mapping[str, Any], results: Mapping[str, Mapping[str, Any]]) -> str:
    if entry["status"] == "done":
        reused = " (nothing changed, reused)" if entry.get("cached_from") else ""
        if step not in results:
            return "done, but left no results that can be read" + reused
        return str(results[step].get("headline", "")) + reused
    if entry["status"] == "skipped":
        return f"skipped: {entry.get('why')}"
    failure = entry.get("failure") or {}
    return f"failed: {failure.get('cause')}: {failure.get('detail')}"


def steps(
    run: Path, record: Mapping[str, Any], results: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return one row for each step of a run: its source, outcome and seconds."""
    return [
        {
            "step": step,
            "source": source_of(run, step, record, results.get(step, {})),
            "outcome": _outcome(step, entry, results),
            "seconds": entry.get("seconds") or "",
        }
        for step, entry in sorted(record["steps"].items())
    ]
