"""One run of one notebook: files in the run directory, the same and more in MLflow."""

from __future__ import annotations

import atexit
import contextlib
import datetime
import fcntl
import json
import logging
import os
import shutil
import sqlite3
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nivesh_lib import paths
from nivesh_lib.errors import NiveshError
from nivesh_lib.privacy import anonymize_query, hide_password
from nivesh_lib.records.schema import NUMBER, fits, read_object
from nivesh_lib.reproducibility import disable_telemetry, environment, git_state, set_seeds

if TYPE_CHECKING:
    import pandas as pd

TREE = "nivesh/intent_classification"
PARENT = "mlflow.parentRunId"  # tag of a run below another, such as one fold of a model
_BATCH = 1000  # metrics, the most that MLflow takes at once
_EXAMPLES = ["Can I afford a ₹50L home loan?", "sip kitne se start karu"]
_PYFUNC = Path(__file__).with_name("pyfunc_model.py")


def tracking_uri() -> str:
    """Return ``MLFLOW_TRACKING_URI``, else an absolute SQLite address below the home folder."""
    default = paths.home() / "mlruns" / "mlflow.db"
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{default}"
    if uri.startswith("sqlite:///"):  # a relative path would be another file in each notebook
        uri = f"sqlite:///{Path(uri.removeprefix('sqlite:///')).absolute()}"
    return uri


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def prepare_store() -> str:
    """Create the tracking store if it is missing, and return its address.

    Processes that open a fresh SQLite store at the same time break its
    migration, so one creates it under a lock; write-ahead logging then lets
    parallel notebooks write without waiting for each other.
    """
    disable_telemetry()
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    uri = tracking_uri()
    if not uri.startswith("sqlite:///"):
        return uri
    database = Path(uri.removeprefix("sqlite:///"))
    with _locked(database.with_name("mlflow.lock")):
        if not database.exists():
            _create(database)
        connection = sqlite3.connect(database)
        connection.execute("pragma journal_mode=wal")
        connection.close()
    return uri


def _create(database: Path) -> None:
    """Write an empty, migrated store under another name and move it into place."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    for name in ("mlflow", "alembic"):  # pages of migrations that say nothing to a user
        logging.getLogger(name).setLevel(logging.WARNING)
    partial = database.with_name(f".{database.name}.partial")
    partial.unlink(missing_ok=True)
    store = SqlAlchemyStore(f"sqlite:///{partial}", _artifact_root(database))
    store.engine.dispose()
    partial.rename(database)


def _artifact_root(database: Path) -> str:
    return (database.parent / "artifacts").as_uri()


def _client() -> Any:
    uri = prepare_store()
    import mlflow

    mlflow.set_tracking_uri(uri)
    return mlflow.MlflowClient(uri)


def create_experiment(name: str) -> str:
    """Return the id of the experiment ``name``, creating it when it is missing.

    A short name such as ``baseline_experiments`` is put below ``TREE``.
    """
    client = _client()
    full = name if "/" in name else f"{TREE}/{name}"
    found = client.get_experiment_by_name(full)
    if found is not None:
        return found.experiment_id
    uri = tracking_uri()
    root = None
    if uri.startswith("sqlite:///"):
        root = f"{_artifact_root(Path(uri.removeprefix('sqlite:///')))}/{full.replace('/', '_')}"
    try:
        return client.create_experiment(full, artifact_location=root)
    except Exception:  # another process was faster
        found = client.get_experiment_by_name(full)
        if found is None:
            raise
        return found.experiment_id


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{name}."))
        else:
            flat[name] = value
    return flat


def _active_run_id() -> str:
    import mlflow

    active = mlflow.active_run()
    if active is None:
        raise ValueError("no active MLflow run; pass run_id or use `with mlflow.start_run()`")
    return active.info.run_id


def log_model_params(params: Mapping[str, Any], run_id: str | None = None) -> None:
    """Log all ``params`` to a run (default: the active one) in one batch; nested names get dots."""
    from mlflow.entities import Param

    target = run_id or _active_run_id()
    entities = [Param(k, anonymize_query(str(v))[:6000]) for k, v in _flat(params).items()]
    _client().log_batch(target, params=entities)


def log_model_metrics(
    metrics: Mapping[str, float], run_id: str | None = None, step: int = 0
) -> None:
    """Log all numeric ``metrics`` to a run (default: the active one) in one batch."""
    from mlflow.entities import Metric

    target = run_id or _active_run_id()
    now = int(time.time() * 1000)
    numbers = {k: v for k, v in _flat(metrics).items() if isinstance(v, int | float)}
    entities = [Metric(k, float(v), now, step) for k, v in numbers.items()]
    client = _client()
    for start in range(0, len(entities), _BATCH):
        client.log_batch(target, metrics=entities[start : start + _BATCH])


def _mode() -> str:
    if os.environ.get("NIVESH_MODE"):
        return os.environ["NIVESH_MODE"]
    return "interactive"


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file that is there wholly or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    text = json.dumps(value, ensure_ascii=False, indent=1, default=_plain)
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(path)


def _plain(value: Any) -> Any:
    """Turn NumPy and pandas values, and our dataclasses, into what JSON knows."""
    for method in ("as_dict", "tolist", "isoformat"):
        if hasattr(value, method):
            return getattr(value, method)()
    return str(value)


@dataclass(frozen=True, eq=False)
class Recorded:
    """A model that a step left: its results, out-of-fold table, answers to probes, directory."""

    step: str
    result: dict[str, Any]
    oof: pd.DataFrame
    probes: pd.DataFrame | None
    directory: Path


class Run:
    """What a notebook holds while it runs. Made by `start_run`."""

    def __init__(
        self,
        step: str,
        params: dict[str, Any],
        directory: Path,
        *,
        run_id: str,
        experiment_id: str,
        tags: Mapping[str, str],
    ) -> None:
        self.step = step
        self.experiment_id = experiment_id
        self.params = params
        self.directory = directory
        self.mlflow_run_id = run_id
        self._tags = dict(tags)
        self._folds: dict[str, str] = {}  # name of a fold's run -> its id
        self._started = time.time()

    def __repr__(self) -> str:
        return f"Run({self.step!r}, mode={_mode()!r})"

    @property
    def interactive(self) -> bool:
        """Whether a person watches: progress bars are for them, not for executed copies."""
        return _mode() == "interactive"

    def upstream(self, step: str) -> dict[str, Any] | None:
        """Return what ``step`` left for the same dataset, or None with a printed hint."""
        for root in self._roots():
            result = read_object(root / "results" / f"{step}.json")
            if result and result.get("dataset") == self.params.get("DATASET"):
                return result
        sys.stdout.write(
            f"No results of {step} for {self.params.get('DATASET')}: the comparison is left out. "
            f"`nivesh run --only {step}` makes them.\n"
        )
        return None

    def upstream_oof(self, step: str) -> pd.DataFrame | None:
        """Return the out-of-fold table that goes with ``upstream(step)``, or None."""
        return self._upstream_table("oof", step)

    def upstream_probes(self, step: str) -> pd.DataFrame | None:
        """Return the answers to probes that go with ``upstream(step)``, or None."""
        return self._upstream_table("probes", step)

    def _upstream_table(self, kind: str, step: str) -> pd.DataFrame | None:
        import pandas as pd

        for root in self._roots():
            path = root / kind / f"{step}.parquet"
            result = read_object(root / "results" / f"{step}.json")
            if not (path.is_file() and result):
                continue
            if result.get("dataset") == self.params.get("DATASET"):
                return pd.read_parquet(path)
        return None

    def upstream_path(self, kind: str, step: str, name: str) -> Path | None:
        """Return what ``step`` wrote to its `path` for the same dataset, or None."""
        for root in self._roots():
            path = root / kind / step / name
            result = read_object(root / "results" / f"{step}.json")
            if path.exists() and result and result.get("dataset") == self.params.get("DATASET"):
                return path
        return None

    def recorded_models(self) -> dict[str, Recorded]:
        """Return the models that other steps left for the same dataset, by name.

        Raises
        ------
        NiveshError
            There is none.
        """
        found: dict[str, Recorded] = {}
        for root in self._roots():
            steps = {one.step for one in found.values()}
            for path in sorted((root / "results").glob("*.json")):
                result = read_object(path, {"model": str, "metrics": dict, "dataset": str})
                step = path.stem
                if not result or step in {*steps, self.step}:
                    continue
                oof = self._upstream_table("oof", step)
                if oof is None or result["dataset"] != self.params.get("DATASET"):
                    continue
                name = result["model"] if result["model"] not in found else step
                probes = self._upstream_table("probes", step)
                found[name] = Recorded(step, result, oof, probes, root / "models" / step)
        if not found:
            raise NiveshError(
                f"no model was evaluated on {self.params.get('DATASET')} yet, so there is nothing "
                f"to judge. `nivesh run --dataset {self.params.get('DATASET')}` evaluates them"
            )
        return found

    def _roots(self) -> list[Path]:
        if _mode() == "interactive":
            return [self.directory, paths.latest_run()]
        return [self.directory]  # never mix in what another run made

    def path(self, kind: str, name: str) -> Path:
        """Return ``<run>/<kind>/<step>/<name>``, its folder made."""
        folder = self.directory / kind / self.step
        folder.mkdir(parents=True, exist_ok=True)
        return folder / name

    def log(
        self,
        result: Mapping[str, Any],
        *,
        dataset: Any = None,
        model: Any = None,
        oof: pd.DataFrame | None = None,
        probes: pd.DataFrame | None = None,
        figures: Mapping[str, Any] | None = None,
        history: Sequence[Mapping[str, float]] = (),
        part: str = "",
    ) -> dict[str, Any]:
        """Record the run, in the run directory and in MLflow, and return the headline numbers.

        Parameters
        ----------
        result : mapping
            ``metrics`` (name -> value or Estimate), ``headline`` (one line), and
            whatever else the report needs; no raw queries. Each row of ``folds`` (fold and
            its scores) of a model's result becomes a child of the MLflow run.
        dataset : Dataset, optional
            Becomes the MLflow dataset input, with version and checksum.
        model : TextClassifier, optional
            Saved as ``models/<step>`` and logged as an MLflow model.
        oof : DataFrame, optional
            Out-of-fold probabilities, written to ``oof/<step>.parquet``.
        probes : DataFrame, optional
            Answers to other texts, without the texts, written to ``probes/<step>.parquet``.
        figures : mapping, optional
            Name -> (Axes, alternative text); written as PNG.
        history : sequence of mapping
            What training told of each ``epoch``; becomes metrics with steps.
        part : str
            Name of a second model of the notebook: its files are those of
            ``<step>.<part>``, its metrics begin with ``<part>_``, and the run stays open.
        """
        name = f"{self.step}.{part}" if part else self.step
        if dataset is not None:
            _log_dataset(self.mlflow_run_id, dataset)
        self._write_table("oof", name, oof)
        self._write_table("probes", name, probes)
        shown = self._write_figures(figures or {})
        if model is not None:
            about = {"step": self.step, "mlflow_run_id": self.mlflow_run_id}
            target = self.directory / "models" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            model.save(target, data=str(self.params.get("DATASET", "")), about=about)
            _log_model(self.mlflow_run_id, name.replace(".", "_"), target)
        record = {
            "step": self.step,
            "dataset": self.params.get("DATASET"),
            "params": self.params,
            "mlflow_run_id": self.mlflow_run_id,
            "experiment_id": self.experiment_id,
            "seconds": round(time.time() - self._started, 2),
            **result,
            "figures": shown,
        }
        results = self.directory / "results" / f"{name}.json"
        write_json(results, record)
        self._log_to_mlflow(record, results, prefix=f"{part}_" if part else "")
        _log_history(self.mlflow_run_id, history)
        self._log_folds(record, part)
        if part:
            return told_metrics(result)
        if _mode() != "pipeline":  # there, the worker adds the notebook and closes the run
            close_run(self.mlflow_run_id, "FINISHED")
            _unlogged.discard(self.mlflow_run_id)
        return told_metrics(result)

    def _write_table(self, kind: str, name: str, table: pd.DataFrame | None) -> None:
        path = self.directory / kind / f"{name}.parquet"
        if table is None:  # what an earlier run left there would be taken for this one's
            path.unlink(missing_ok=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        table.to_parquet(partial, index=False)
        partial.replace(path)

    def _write_figures(self, figures: Mapping[str, Any]) -> list[dict[str, str]]:
        shown = []
        for name, (axes, alt) in figures.items():
            path = self.path("figures", f"{name}.png")
            axes.figure.savefig(path, dpi=110, bbox_inches="tight")
            file = str(path.relative_to(self.directory))
            shown.append(
                {"name": name, "file": file, "title": axes.get_title(loc="left"), "alt": alt}
            )
        return shown

    def _log_to_mlflow(self, record: dict[str, Any], results: Path, *, prefix: str) -> None:
        client = _client()
        numbers: dict[str, float] = {f"{prefix}seconds": record["seconds"]}
        for name, value in told_metrics(record).items():
            if isinstance(value, dict):
                ends = {f"{prefix}{name}_{k}": value[k] for k in ("low", "high") if k in value}
                numbers |= {f"{prefix}{name}": value["value"], **ends}
            else:
                numbers[f"{prefix}{name}"] = value
        log_model_metrics(numbers, self.mlflow_run_id)
        client.log_artifact(self.mlflow_run_id, str(results), "results")
        for kind in ("figures", "drift"):
            folder = self.directory / kind / self.step
            if folder.is_dir():
                client.log_artifacts(self.mlflow_run_id, str(folder), kind)

    def _log_folds(self, record: Mapping[str, Any], part: str) -> None:
        """Log each fold as a finished run below this one: three calls, tens of milliseconds.

        A notebook that logs again writes to the same children.
        """
        folds: Any = record.get("folds")
        if not (record.get("model") and fits(folds, [{"*": NUMBER}])):
            return  # no model's, or a table over several models
        client, parent = _client(), self._tags["mlflow.runName"]
        for row in (row for row in folds if "fold" in row):
            name = " ".join(word for word in (parent, part, f"fold {row['fold']}") if word)
            tags = {
                **self._tags,
                "mlflow.runName": name,
                PARENT: self.mlflow_run_id,
                "nivesh.fold": str(row["fold"]),
                **({"nivesh.part": part} if part else {}),
            }
            if name not in self._folds:
                created = client.create_run(self.experiment_id, run_name=name, tags=tags)
                self._folds[name] = created.info.run_id
            log_model_metrics({k: v for k, v in row.items() if k != "fold"}, self._folds[name])
            client.set_terminated(self._folds[name], "FINISHED")


def told_metrics(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metrics of a result as plain values."""
    return json.loads(json.dumps(dict(result.get("metrics", {})), default=_plain))


def _log_history(run_id: str, history: Sequence[Mapping[str, float]]) -> None:
    """Log all epochs in one batch: a call for each number would cost more than some epochs."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    entities = [
        Metric(name, float(value), now, int(epoch["epoch"]))
        for epoch in history
        for name, value in epoch.items()
        if name != "epoch"
    ]
    for start in range(0, len(entities), _BATCH):
        _client().log_batch(run_id, metrics=entities[start : start + _BATCH])


def _log_dataset(run_id: str, dataset: Any) -> None:
    from mlflow.data.pandas_dataset import from_pandas
    from mlflow.entities import DatasetInput, InputTag

    source = str(dataset.manifest["path"])
    train = dataset.train.drop(columns=[c for c in ("query",) if c in dataset.train])
    with warnings.catch_warnings():  # two of MLflow's sources claim every local path
        warnings.simplefilter("ignore", UserWarning)
        entity = from_pandas(
            train, source=source, name=dataset.ref, digest=dataset.version.sha256[:36]
        )._to_mlflow_entity()
    tags = [
        InputTag("mlflow.data.context", "training"),
        InputTag("sha256", dataset.version.sha256),
        InputTag("version", dataset.version.version),
    ]
    _client().log_inputs(run_id, [DatasetInput(entity, tags)])


def _log_model(run_id: str, step: str, directory: Path) -> None:
    import mlflow

    import nivesh_lib.reproducibility as ours

    versions = ours.environment()["packages"]
    _client()
    with mlflow.start_run(run_id=run_id):
        mlflow.pyfunc.log_model(
            name=step,
            python_model=str(_PYFUNC),
            artifacts={"model": str(directory)},
            code_paths=[str(paths.package_dir())],
            input_example=_EXAMPLES,
            # Given, since MLflow would otherwise spend seconds on guessing them.
            pip_requirements=[
                f"{name}=={versions[name]}"
                for name in ("mlflow", "numpy", "pandas", "scikit-learn")
            ],
        )
        os.environ.pop("MLFLOW_RUN_ID", None)
    _client().update_run(run_id, status="RUNNING")


def close_run(run_id: str, status: str) -> None:
    """Set the final status of an MLflow run: FINISHED, FAILED or KILLED.

    A process that was killed may have left the run of a fold open; it gets the status too.
    """
    client = _client()
    client.set_terminated(run_id, status)
    if status == "FINISHED":
        return
    experiment_id = client.get_run(run_id).info.experiment_id
    below = f"tags.`{PARENT}` = '{run_id}' AND attributes.status = 'RUNNING'"
    for child in client.search_runs([experiment_id], filter_string=below):
        client.set_terminated(child.info.run_id, status)


# Runs of this process that were opened and not logged yet: a cell raised, or was never reached.
_unlogged: set[str] = set()


@atexit.register
def _close_unlogged() -> None:
    for run_id in list(_unlogged):
        with contextlib.suppress(Exception):  # the store may be gone when Python stops
            close_run(run_id, "KILLED")
        _unlogged.discard(run_id)


def attach(run_id: str, files: list[Path], folder: str = "notebook") -> None:
    """Add files to an MLflow run."""
    client = _client()
    for file in files:
        client.log_artifact(run_id, str(file), folder)


def run_name(step: str, experiment_id: str) -> str:
    """Return the next ``intent_classifier_<variant>_<date>_v<n>`` in an experiment."""
    variant = step.split("_", 1)[-1]
    stem = f"intent_classifier_{variant}_{datetime.date.today():%Y%m%d}_v"
    taken = _client().search_runs(
        [experiment_id], filter_string=f"attributes.run_name LIKE '{stem}%'", max_results=1000
    )
    numbers = [r.info.run_name.removeprefix(stem) for r in taken]  # of folds: "1 fold 0"
    return f"{stem}{max((int(n) for n in numbers if n.isdigit()), default=0) + 1}"


def start_run(
    step: str,
    params: Mapping[str, Any],
    *,
    experiment: str = "baseline_experiments",
    seed: int = 42,
) -> Run:
    """Open the run of one notebook: seeds, run directory, MLflow run with its provenance.

    Parameters
    ----------
    step : str
        The notebook's name without suffix, such as ``03_tfidf``.
    params : mapping
        The notebook's parameters. ``DATASET`` decides which upstream results fit.
    experiment : str
        Leaf of the experiment tree below ``TREE``.
    """
    set_seeds(seed)
    directory = Path(os.environ.get("NIVESH_RUN_DIR") or paths.reports_dir() / "scratch")
    if _mode() == "interactive":
        for kind in ("figures", "drift"):  # leftovers of the last interactive run
            shutil.rmtree(directory / kind / step, ignore_errors=True)
    experiment_id = create_experiment(experiment)
    git = git_state()
    tags = {
        "mlflow.source.name": f"notebooks/{step}.ipynb",
        "mlflow.source.type": "NOTEBOOK",
        "mlflow.source.git.commit": git["commit"],
        "mlflow.source.git.branch": git["branch"],
        "nivesh.dirty": str(git["dirty"]),
        "nivesh.mode": _mode(),
        "nivesh.step": step,
        "nivesh.run": os.environ.get("NIVESH_RUN_ID", ""),
    }
    client = _client()
    told = {k: v for k, v in tags.items() if v}
    name = run_name(step, experiment_id)
    created = client.create_run(experiment_id, run_name=name, tags=told)
    run_id = created.info.run_id
    if _mode() == "pipeline":
        write_json(directory / "open" / f"{step}.json", {"mlflow_run_id": run_id})
    else:
        _close_unlogged()  # the notebook was started again
        _unlogged.add(run_id)
    log_model_params({**params, "seed": seed}, run_id)
    client.log_dict(run_id, environment(), "environment.json")
    if git["patch"]:
        client.log_text(run_id, git["patch"], "dirty.patch")
    return Run(
        step,
        dict(params),
        directory,
        run_id=run_id,
        experiment_id=experiment_id,
        tags=told | {"mlflow.runName": name},
    )


def check_store() -> str:
    """Open the tracking store, creating a missing SQLite one, and return its address.

    Raises
    ------
    NiveshError
        It cannot be opened. A server is asked once, without MLflow's minutes of retries.
    """
    patience = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
    before = {name: os.environ.get(name) for name in patience}
    os.environ |= patience
    try:
        _client().search_experiments(max_results=1)
    except Exception as error:
        why = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise NiveshError(
            hide_password(f"tracking store {tracking_uri()}: cannot be opened ({why}). ")
            + "Check MLFLOW_TRACKING_URI; without it a SQLite file below mlruns/ is used"
        ) from None
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
    return tracking_uri()
