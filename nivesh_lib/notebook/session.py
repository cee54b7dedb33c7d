"""The session of one notebook: reading results of earlier steps, recording its own."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import ValidationError

from nivesh_lib import paths
from nivesh_lib.data.versions import Dataset, load_dataset
from nivesh_lib.errors import NiveshError
from nivesh_lib.evaluation.objectives import impact_of, none_set, objectives_for
from nivesh_lib.evaluation.resampling.cross_validation import CrossValidation, aligned
from nivesh_lib.evaluation.resampling.search import Trial
from nivesh_lib.models.base import TextClassifier, load_model
from nivesh_lib.notebook.compared import Compared, RecordedModel
from nivesh_lib.notebook.evaluated import Evaluated
from nivesh_lib.privacy import show
from nivesh_lib.records.base import first_flaw, plain
from nivesh_lib.records.finding import Finding
from nivesh_lib.records.metrics import flat_metrics
from nivesh_lib.records.results import ModelResult, StepResult, is_evaluation, kind_of
from nivesh_lib.reporting.figures import figure_of
from nivesh_lib.reporting.findings import SIGNS, show_in_notebooks, show_markdown
from nivesh_lib.reproducibility import disable_telemetry, set_seeds
from nivesh_lib.runs.directories import latest_run
from nivesh_lib.runs.layout import RunDirectory
from nivesh_lib.tracking.logger import RunLogger, close_run, open_logger


def _mode() -> str:
    return os.environ.get("NIVESH_MODE") or "interactive"


@dataclass(eq=False, repr=False)
class Run:
    """The session of a notebook. Made by `start_run`."""

    step: str
    params: dict[str, Any]
    directory: RunDirectory
    logger: RunLogger
    seed: int = 42
    marks: dict[str, str] = field(init=False, default_factory=dict)
    findings: dict[str, Finding] = field(init=False, default_factory=dict)
    _started: float = field(init=False, default_factory=time.time)
    _data: Dataset | None = field(init=False, default=None)

    def __repr__(self) -> str:
        return f"Run({self.step!r}, mode={_mode()!r})"

    @property
    def interactive(self) -> bool:
        """Whether the notebook is run interactively, and so with progress bars."""
        return _mode() == "interactive"

    # --- results of earlier steps ---------------------------------------------------------------

    @property
    def _dataset(self) -> str | None:
        return self.params.get("DATASET")

    def _sources(self) -> list[RunDirectory]:
        if self.interactive:
            return [self.directory, latest_run()]
        return [self.directory]  # never mix in what another run made

    def _upstream(self, name: str) -> list[tuple[RunDirectory, StepResult]]:
        """Return where there are results of ``name`` for the same dataset, nearest first."""
        found = ((source, source.result(name)) for source in self._sources())
        return [(s, r) for s, r in found if r is not None and r.dataset == self._dataset]

    def upstream(self, name: str) -> StepResult | None:
        """Return the result of a step for the same dataset, or None with a printed hint."""
        for _, result in self._upstream(name):
            return result
        sys.stdout.write(
            f"No results of {name} for {self._dataset}: the comparison is left out. "
            f"`nivesh run --only {name}` makes them.\n"
        )
        return None

    def upstream_oof(self, name: str) -> pd.DataFrame | None:
        """Return the out-of-fold table that goes with ``upstream(name)``, or None."""
        tables = (source.table("oof", name) for source, _ in self._upstream(name))
        return next((table for table in tables if table is not None), None)

    def upstream_path(self, kind: str, step: str, name: str) -> Path | None:
        """Return what ``step`` wrote to its `path` for the same dataset, or None."""
        places = (source.folder(kind, step) / name for source, _ in self._upstream(step))
        return next((place for place in places if place.exists()), None)

    def recorded_models(self) -> dict[str, RecordedModel]:
        """Return the models that other steps left for the same dataset, by name.

        Raises
        ------
        NiveshError
            There is none.
        """
        found: dict[str, RecordedModel] = {}
        for source in self._sources():
            known = {self.step, *(one.step for one in found.values())}
            for step, result in source.results().items():
                if not isinstance(result, ModelResult) or step in known:
                    continue
                oof = source.table("oof", step)
                if oof is None or result.dataset != self._dataset:
                    continue
                name = step if result.model in found else result.model
                answers = source.table("probes", step)
                found[name] = RecordedModel(step, result, oof, answers, source.model(step))
        if not found:
            raise NiveshError(
                f"no model was evaluated on {self._dataset} yet, so there is nothing "
                f"to judge. `nivesh run --dataset {self._dataset}` evaluates them"
            )
        return found

    # --- findings --------------------------------------------------------------------------------

    def load(self, ref: str) -> Dataset:
        """Return a dataset, after showing its size and five anonymised training rows."""
        from IPython.display import display

        data = self._data = load_dataset(ref)
        show_markdown(
            f"{data.ref}: {len(data.train):,} training rows in {data.n_folds} folds, "
            f"{len(data.labels)} labels."
        )
        display(show(data.train.sample(min(5, len(data.train)), random_state=self.seed)))
        return data

    def set_marks(self, *, objectives: bool = True, **own: str) -> None:
        """Set and show what the notebook must reach: the dataset's objectives, and its own marks.

        Parameters
        ----------
        objectives
            Set those of the dataset; False for a notebook that judges no model.
        own
            Name of the finding that will be judged -> the mark, in words.
        """
        dataset = str(self._dataset)
        found = objectives_for(self.step, dataset=dataset) if objectives else []
        self.marks = {one.metric: str(one) for one in found} | own
        lines = [*([none_set(dataset)] if objectives and not found else []), *self.marks.values()]
        shown = "\n".join(f"- {line}" for line in lines)
        if found and (impact := impact_of(dataset)):
            shown += f"\n\nWhat they are to bring, which no notebook measures: {impact}."
        show_markdown(shown)

    def evaluate(
        self, model: Any, data: Dataset, *, name: str = "", as_in: str = "", **options: Any
    ) -> Evaluated:
        """Return the cross-validated model, whose methods are findings (`Evaluated.of`).

        Parameters
        ----------
        as_in
            A step of this run that may have evaluated a model with these settings: then that one
            and its answers are taken, and nothing is trained.
        """
        known = self._known(as_in, model, data) if as_in else None
        if known is None:
            return Evaluated.of(self, model, data, name=name, **options)
        fitted, cv = known
        part = options.get("part", False)
        return Evaluated.with_answers(self, fitted, data, cv, name=name, part=part)

    def _known(
        self, step: str, model: Any, data: Dataset
    ) -> tuple[TextClassifier, CrossValidation] | None:
        """Return the model of a step of this run, if its settings and data are these."""
        source, result = self.directory, self.directory.result(step)
        oof, folder = source.table("oof", step), source.model(step)
        if oof is None or not isinstance(result, ModelResult) or not folder.is_dir():
            return None
        fitted, seconds = load_model(folder), result.metrics.get("fit_seconds")
        if type(fitted) is not type(model) or fitted.get_params() != model.get_params():
            return None
        folds = (float(seconds),) * data.n_folds if isinstance(seconds, int | float) else ()
        answers = aligned(oof, data.train["id"])
        return fitted, CrossValidation(answers, folds, source.table("probes", step))

    def compare(self, data: Dataset, *steps: str) -> Compared:
        """Return the models of steps with lower numbers; its methods are findings.

        Parameters
        ----------
        steps
            Where models are expected; what has no results is named, with how to make them.
        """
        for step in steps:
            self.upstream(step)
        known = self.recorded_models().items()
        return Compared(self, data, {name: one for name, one in known if one.step < self.step})

    def combine(self, *members: Evaluated, name: str = "") -> Evaluated:
        """Return evaluated models joined with learned weights, as a further model."""
        return Evaluated.pool_of(members, name=name)

    def add(self, finding: Finding) -> Finding:
        """Keep a finding for the record, in place of an earlier one of its name; return it."""
        kept = self.findings[finding.name] = finding.changed(step=self.step)
        return kept

    def finish(
        self, main: Evaluated | Compared | None = None, *others: Evaluated, **recorded: Any
    ) -> None:
        """Show every mark with its verdict, and record the findings and the evaluated models.

        Parameters
        ----------
        main
            The model, or the comparison of models, that is the result of the notebook.
        others
            Further models, recorded as parts.
        recorded
            Further arguments of `log`, such as ``history``, or fields of the result.

        Raises
        ------
        NiveshError
            A mark was set, and no finding of its name was made.
        """
        if unjudged := sorted(set(self.marks) - set(self.findings)):
            raise NiveshError(
                f"{self.step} sets the mark {unjudged[0]!r} ({self.marks[unjudged[0]]}) and no "
                "finding of that name judges it. Add the finding, or do not set the mark"
            )
        for one in others:
            self.log(one.result(), **one.files(), part=one.name)
            self.logger.log_params({one.name: one.training()})
        if isinstance(main, Evaluated):
            self.logger.log_params(main.training())
        arguments = {key: recorded.pop(key) for key in _LOGGED if key in recorded}
        found: dict[str, Any] = {"findings": [one.as_dict() for one in self.findings.values()]}
        result = (main.result() | found) if main else found
        files = main.files() if main else {}
        self.log(result | recorded, dataset=self._data, **(files | arguments))
        self._show_verdict()

    def _show_verdict(self) -> None:
        lines = []
        for name, words in self.marks.items():
            finding = self.findings[name]
            lines.append(f"- **{SIGNS[finding.verdict]}**: {words}. {finding.claim}")
        if lines:
            show_markdown("\n".join(lines))

    # --- recording results ---------------------------------------------------------------------

    def path(self, kind: str, name: str) -> Path:
        """Return ``<run>/<kind>/<step>/<name>``, its folder made."""
        folder = self.directory.folder(kind, self.step)
        folder.mkdir(parents=True, exist_ok=True)
        return folder / name

    def log(
        self,
        result: StepResult | Mapping[str, Any],
        *,
        dataset: Dataset | None = None,
        model: TextClassifier | None = None,
        oof: pd.DataFrame | None = None,
        case_answers: pd.DataFrame | None = None,
        history: Sequence[Mapping[str, float]] = (),
        part: str = "",
    ) -> dict[str, Any]:
        """Record a result in the run directory and in MLflow, and return its metrics.

        Parameters
        ----------
        result : StepResult or mapping
            ``metrics`` (name -> value or Estimate), ``headline`` (one line), and
            whatever else the report needs; no raw queries. Each row of ``folds`` (fold and
            its scores) of a model's result becomes a child of the MLflow run.
        dataset : Dataset, optional
            Becomes the MLflow dataset input, with version and checksum.
        model : TextClassifier, optional
            Saved as ``models/<step>`` and logged as an MLflow model.
        oof : DataFrame, optional
            Out-of-fold probabilities, written to ``oof/<step>.parquet``.
        case_answers : DataFrame, optional
            Answers to behavioural test cases, without the texts, written to
            ``probes/<step>.parquet``.
        history : sequence of mapping
            What training measured in each ``epoch``; becomes metrics with steps.
        part : str
            Name of a second model of the notebook: its files are those of
            ``<step>.<part>``, its metrics begin with ``<part>_``, and the run stays open.
        """
        name = f"{self.step}.{part}" if part else self.step
        drawn = self._write_findings(result)
        record = self._record(name, result, drawn)
        self._write(name, record, {"oof": oof, "probes": case_answers}, model)
        if dataset is not None:
            self.logger.log_dataset(dataset)
        if model is not None:
            self.logger.log_model(name, self.directory.model(name))
        self.logger.log_history(history)
        folders = {kind: self.directory.folder(kind, self.step) for kind in ("figures", "drift")}
        self.logger.log_result(record, self.directory.result_file(name), folders, part)
        if not part and _mode() != "pipeline":  # there, the worker adds the notebook and closes
            self.close()
        return record.metrics

    def log_trial(self, kind: str, trial: Trial) -> None:
        """Record a trial of a search for hyper-parameters in MLflow, as a run of its own."""
        self.logger.log_trial(f"{kind} {trial.number}", trial.params, trial.folds, trial.state)

    def close(self, status: str = "FINISHED") -> None:
        """Close the MLflow run."""
        close_run(self.logger.run_id, status)
        _unlogged.discard(self.logger.run_id)

    def _record(
        self, name: str, result: StepResult | Mapping[str, Any], figures: list[dict[str, str]]
    ) -> StepResult:
        """Return a result with the fields that every step has."""
        contents = result.as_dict() if isinstance(result, StepResult) else dict(result)
        common = {
            "step": self.step,
            "dataset": self._dataset,
            "params": self.params,
            "mlflow_run_id": self.logger.run_id,
            "experiment_id": self.logger.experiment_id,
            "seconds": round(time.time() - self._started, 2),
        }
        contents = common | contents | {"step": self.step, "figures": figures}
        if is_evaluation(contents):
            contents["metrics"] = flat_metrics(contents["metrics"])
        try:
            return kind_of(contents).model_validate(plain(contents))
        except ValidationError as error:
            raise ValueError(f"{name}: cannot be recorded ({first_flaw(error)})") from None

    def _write_findings(self, result: StepResult | Mapping[str, Any]) -> list[dict[str, str]]:
        """Write the figures of a result's findings, which pages show below the claim."""
        found = dict(result).get("findings", [])
        findings = [Finding.model_validate(one) for one in found if dict(one).get("plot")]
        shown = []
        for finding, plot in ((one, one.plot) for one in findings if one.plot):
            path = self.path("figures", f"{finding.name}.png")
            figure_of(finding, titled=False).savefig(path, dpi=110, bbox_inches="tight")
            file = path.relative_to(self.directory.path).as_posix()
            names = {"name": finding.name, "title": finding.title, "alt": plot.alt}
            shown.append({**names, "file": file})
        return shown

    def _write(
        self,
        name: str,
        record: StepResult,
        tables: Mapping[str, pd.DataFrame | None],
        model: TextClassifier | None,
    ) -> None:
        """Write tables and model, then the result: without it, they are ignored."""
        for kind, table in tables.items():
            self.directory.write_table(kind, name, table)
        if model is not None:
            about = {"step": self.step, "mlflow_run_id": self.logger.run_id}
            model.save(self.directory.model(name), data=str(self._dataset or ""), about=about)
            self.directory.store_once(self.step)
        self.directory.write_result(name, record)


# MLflow runs of this process that were opened and not logged yet: a cell raised, or was never
# reached.
_unlogged: set[str] = set()


@atexit.register
def _close_unlogged() -> None:
    for run_id in list(_unlogged):
        with contextlib.suppress(Exception):  # the store may be unreachable when Python stops
            close_run(run_id, "KILLED")
        _unlogged.discard(run_id)


_LOGGED = ("model", "oof", "case_answers", "history")  # arguments of `log`


def start_run(
    step: str,
    params: Mapping[str, Any] | None = None,
    *,
    experiment: str = "baseline_experiments",
    seed: int = 42,
    **parameters: Any,
) -> Run:
    """Open the session of one notebook: seeds, run directory, MLflow run with its provenance.

    Parameters
    ----------
    step : str
        The notebook's name without suffix, such as ``03_tfidf``.
    params, parameters
        The notebook's parameters. ``DATASET`` decides which upstream results fit, ``SEED`` is
        the seed of everything random.
    experiment : str
        Leaf of the tree of MLflow experiments.
    """
    parameters = {**(params or {}), **parameters}
    seed = parameters.pop("SEED", seed)
    disable_telemetry()
    set_seeds(seed)
    place = os.environ.get("NIVESH_RUN_DIR") or paths.scratch_dir()
    directory, mode = RunDirectory(Path(place)), _mode()
    if mode == "interactive":
        for kind in ("figures", "drift"):  # leftovers of the last interactive run
            shutil.rmtree(directory.folder(kind, step), ignore_errors=True)
    logger = open_logger(
        step,
        {**parameters, "seed": seed},
        experiment=experiment,
        mode=mode,
        run=os.environ.get("NIVESH_RUN_ID", ""),
    )
    if mode == "pipeline":
        directory.open_step(step, logger.run_id)
    else:
        _close_unlogged()  # the notebook was started again
        _unlogged.add(logger.run_id)
    show_in_notebooks()
    return Run(step, parameters, directory, logger, seed)
