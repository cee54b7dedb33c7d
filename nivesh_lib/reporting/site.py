"""The HTML report: one index for a run, and each notebook without its code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nivesh_lib import paths
from nivesh_lib.errors import NiveshError
from nivesh_lib.records.schema import NUMBER, read_object
from nivesh_lib.reporting.comparison import comparison_of, evaluation_of
from nivesh_lib.reporting.holdout import holdout
from nivesh_lib.reporting.sections import sections, unread
from nivesh_lib.reporting.steps import figures, notebook_of, source_of, steps
from nivesh_lib.reporting.tables import p_value

_TEMPLATES = Path(__file__).with_name("templates")
_ABOUT_INTENTS = "about-intents"  # tag of remarks that hold for the shipped data only
_ABOUT_CODE = "about-code"  # tag of remarks that only make sense beside a code cell
_ESTIMATE = {"value": NUMBER, "low": NUMBER, "high": NUMBER, "n": int}
# What the pages read of a step's results; a notebook may leave more, and need not leave all.
_RESULT = {
    "headline?": str,
    "model?": str,
    "metrics?": {
        "macro_f1?": _ESTIMATE,
        "accuracy?": _ESTIMATE,
        "p95_ms?": {"value": NUMBER},
        "size_bytes?": NUMBER | None,
    },
    "judgements?": [{"objective": str, "status": str, "found": str}],
    "objectives?": {"file": str, "missing": str},
    "data_card?": dict,
    "validation?": {"valid": bool, "issues": [str]},
    "drift?": {
        "sentences": [str],
        "rows": [
            {"column": str, "method": str, "value": NUMBER, "threshold": NUMBER, "drifted": bool}
        ],
    },
    "figures?": [{"name": str, "file": str, "title": str, "alt": str}],
}
_RUN = {
    "run": str,
    "profile": str,
    "dataset": {"ref": str, "sha256": str, "rows": int},
    "started": str,
    "seconds": NUMBER,
    "git": {"commit": str | None, "dirty": bool},
    "environment": {
        "processor": {"model": str},
        "cores": int | None,
        "python": str,
        "packages": dict,
    },
    "steps": {"*": {"status": str}},
}


def _environment() -> Any:
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
    )


def _css() -> str:
    return (_TEMPLATES / "page.css").read_text(encoding="utf-8")


def _without(notebook: Any, dataset: str) -> Any:
    """Return a copy without parameters, warnings, and remarks made about other data."""
    import copy

    kept = copy.deepcopy(notebook)
    unwanted = {"parameters", "injected-parameters", _ABOUT_CODE}
    if not dataset.startswith("intents@"):
        unwanted.add(_ABOUT_INTENTS)
    kept.cells = [c for c in kept.cells if not unwanted & set(c.metadata.get("tags", []))]
    for cell in kept.cells:
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
    return kept


def render_notebook(notebook: Any, *, step: str, dataset: str = "") -> str:
    """Return a notebook as one HTML page without code cells or parameters.

    Figures are embedded; no script, font or style is fetched.
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
    body, _ = exporter.from_notebook_node(_without(notebook, dataset))
    return (
        _environment()
        .get_template("notebook.html.j2")
        .render(
            title=_title(notebook) or step,
            step=step,
            dataset=dataset,
            css=markupsafe.Markup(_css()),
            body=markupsafe.Markup(body.replace('.ipynb"', '.html"')),  # pages link to pages
        )
    )


def _title(notebook: Any) -> str:
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            return cell.source.splitlines()[0].lstrip("# ")
    return ""


def read_results(run: Path) -> dict[str, dict[str, Any]]:
    """Return the results that steps left in a run directory, in reading order.

    A file that holds something else is left out; `odd_results` names it.
    """
    read = {path.stem: read_object(path, _RESULT) for path in _result_files(run)}
    return {step: result for step, result in read.items() if result is not None}


def odd_results(run: Path) -> list[Path]:
    """Return the files among a run's results that do not hold what a step leaves."""
    return [path for path in _result_files(run) if read_object(path, _RESULT) is None]


def _result_files(run: Path) -> list[Path]:
    return sorted((run / "results").glob("*.json"))


def _damaged(run: Path, record: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return name and step of the results that finished steps left and that cannot be read."""
    named = [(path.stem, notebook_of(path.stem)) for path in odd_results(run)]
    steps = record["steps"]
    return [
        {"name": name, "step": step}
        for name, step in named
        if steps.get(step, {}).get("status") == "done"
    ]


def leaderboard(results: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the evaluated models, best macro-F1 first, or as a paired comparison has them.

    Each entry has ``step``, ``model``, ``f1`` and ``accuracy`` (value, low, high,
    n), ``p95`` in milliseconds or None, ``bytes`` or None; ``rank`` such as ``2=``, empty
    without a comparison; ``apart`` and ``next``: the paired differences to the champion and to the
    next lower score, or None.
    """
    told = _comparison(results)
    compared = {model["model"]: model for model in told["models"]} if told else {}
    order = {name: place for place, name in enumerate(compared)}
    board: list[dict[str, Any]] = []
    for step, result in _evaluated(results).items():
        metrics = result["metrics"]
        name = step if step in compared else result["model"]  # two may have the same name
        here = compared.get(name, {})
        board.append(
            {
                "step": step,
                "model": result["model"],
                "rank": here.get("rank", ""),
                "apart": here.get("to_champion"),
                "next": here.get("to_next"),
                "place": order.get(name, len(order)),
                "f1": metrics["macro_f1"],
                "accuracy": metrics["accuracy"],
                "rows": metrics["macro_f1"]["n"],
                "p95": metrics.get("p95_ms", {}).get("value"),
                "bytes": metrics.get("size_bytes"),
            }
        )
    return sorted(board, key=lambda m: (m["place"], -m["f1"]["value"]))


def _evaluated(results: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Return the results of models; the step that compares them is none of its own."""
    judge = evaluation_of(results)
    return {
        step: result
        for step, result in results.items()
        if result.get("model")
        and {"macro_f1", "accuracy"} <= set(result.get("metrics", {}))
        and not (judge and step == judge[0])
    }


def _comparison(results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return the paired comparison where it has every model: ranks among some would mislead."""
    told = comparison_of(results)
    names = {model["model"] for model in told["models"]} if told else set()
    covers = all(names & {step, r["model"]} for step, r in _evaluated(results).items())
    return told if covers else None


def human_bytes(size: float | None) -> str:
    """Return a size such as ``1.4 MB``."""
    if size is None:
        return "not measured"
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def data_issues(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return what the validation of the data objected to; nothing where it passed or was not run.

    Each issue is a sentence that begins with the step which found it.
    """
    return [
        f"{step}: {issue}"
        for step, result in results.items()
        if not result.get("validation", {}).get("valid", True)
        for issue in result["validation"]["issues"] or ["not valid"]
    ]


def _data_warning(issues: Sequence[str]) -> list[str]:
    if not issues:
        return []
    count = f"{len(issues)} issue{'s' * (len(issues) > 1)}"
    found_by = issues[0].partition(":")[0]
    return [f"✘ The data did not pass validation: {count}, listed in {found_by}."]


def answer(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the verdict of a run as a few plain sentences; bad data comes first."""
    board, told = leaderboard(results), _comparison(results)
    issues = data_issues(results)
    said = _data_warning(issues)
    if not board:
        return [*said, "No model was evaluated in this run, so there is nothing to choose."]
    best = board[0]
    f1 = best["f1"]
    said += [
        f"Best so far: {best['model']}, macro-F1 {f1['value']:.3f} "
        f"(95 % interval {f1['low']:.3f} to {f1['high']:.3f}, {f1['n']:,} queries)."
    ]
    if len(board) > 1:
        runner = board[1]
        said.append(
            f"Second: {runner['model']}, {runner['f1']['value']:.3f}{_apart(runner)}. "
            + (told["sentence"] if told else _UNPAIRED)
        )
    judged = results[best["step"]].get("judgements", [])
    for word, sentence in (
        ("met", "Objectives met: {}."),
        ("undecided", "Undecided, the interval holds the target: {}."),
        ("not met", "Not met: {}."),
    ):
        found = [f"{j['objective']} (found {j['found']})" for j in judged if j["status"] == word]
        if found:
            said.append(sentence.format("; ".join(found)))
    if missing := results[best["step"]].get("objectives", {}).get("missing"):
        said.append(missing)
    if issues or any(j["status"] != "met" for j in judged):
        said.append("It is not ready for release.")
    elif judged:
        said.append(
            "Every objective is met out of fold. Whether it may be released, the holdout says."
        )
    return said


_UNPAIRED = (
    "Whether that is more than chance, a paired test on the same queries tells: "
    "notebook 06 or `nivesh compare`."
)


def _apart(model: Mapping[str, Any]) -> str:
    if not model["apart"]:
        return ""
    apart = model["apart"]
    return (
        f" ({apart['value']:+.3f}, paired 95 % interval {apart['low']:+.3f} to "
        f"{apart['high']:+.3f}, corrected p {p_value(apart['p'])})"
    )


def _judgements(results: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return every verdict on an objective, each model and objective once."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for name, result in results.items():
        for judged in result.get("judgements", []):
            if model := result.get("model"):
                key = (model, judged["objective"])
                found.setdefault(key, {**judged, "model": model, "result": name})
    order = [model["model"] for model in leaderboard(results)]
    known = {name: place for place, name in enumerate(order)}
    return sorted(found.values(), key=lambda judged: known.get(judged["model"], len(order)))


def _objectives(results: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return the file that models were judged by, and what is said where it sets nothing."""
    told = [r["objectives"] for r in results.values() if r.get("objectives")]
    return told[0] if told else {"file": "", "missing": ""}


def _drift(run: Path, results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    for step, result in results.items():
        drift = result.get("drift")
        if drift:
            page = f"drift/{step}/evidently.html"
            return {**drift, "step": step, "page": page if (run / page).is_file() else ""}
    return None


def build_site(run: Path) -> Path:
    """Write ``index.html`` of a run directory from its records and results; return its path.

    Raises
    ------
    NiveshError
        ``run.json`` is missing or is not the record of a run.
    """
    import markupsafe

    record = read_object(run / "run.json", _RUN)
    if record is None:
        raise NiveshError(
            f"{paths.relative(run / 'run.json')}: not the record of a run. "
            "`nivesh run --force` makes a new run"
        )
    results = {
        step: result
        for step, result in read_results(run).items()
        if record["steps"].get(notebook_of(step), {}).get("status") == "done"
    }
    sources = {
        name: source_of(run, name, record, results.get(name, {}))
        for name in [*results, *record["steps"]]
    }
    ran = steps(run, record, results)
    page = (
        _environment()
        .get_template("index.html.j2")
        .render(
            css=markupsafe.Markup(_css()),
            run=record,
            answer=answer(results),
            issues=data_issues(results),
            board=[{**m, "size": human_bytes(m["bytes"])} for m in leaderboard(results)],
            comparison=_comparison(results),
            evaluated=(evaluation_of(results) or ("",))[0],
            judgements=_judgements(results),
            objectives=_objectives(results),
            sections=sections(results),
            unread=unread(results),
            damaged=_damaged(run, record),
            sources=sources,
            p_value=p_value,
            card=next((r["data_card"] for r in results.values() if r.get("data_card")), None),
            drift=_drift(run, results),
            figures=figures(run, results),
            steps=ran,
            failed=[
                {"step": s["step"], "why": s["outcome"]}
                for s in ran
                if record["steps"][s["step"]]["status"] != "done"
            ],
            holdout=holdout(record["dataset"]["ref"]),
        )
    )
    target, partial = run / "index.html", run / ".index.html.partial"
    partial.write_text(page, encoding="utf-8", errors="replace")  # half a surrogate pair
    partial.replace(target)
    return target
