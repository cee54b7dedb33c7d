"""Logging of a notebook's run to MLflow: parameters, metrics, dataset, model, folds."""

from __future__ import annotations

import datetime
import logging
import os
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nivesh_lib import paths
from nivesh_lib.data.versions import Dataset
from nivesh_lib.files import link_equal, remove_abandoned, tree_files
from nivesh_lib.privacy import anonymize_query
from nivesh_lib.records.metrics import flat_metrics
from nivesh_lib.records.results import ModelResult, StepResult
from nivesh_lib.records.schema import NUMBER
from nivesh_lib.reproducibility import author, environment, git_state
from nivesh_lib.tracking.store import client, create_experiment, local_path

PARENT = "mlflow.parentRunId"  # tag of a run below another, such as one fold of a model
_NAME = "mlflow.runName"
_BATCH = 1000  # metrics, the most that MLflow takes at once
_EXAMPLES = ["Can I afford a ₹50L home loan?", "sip kitne se start karu"]
_PYFUNC = Path(__file__).with_name("pyfunc_model.py")


def _dotted(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        flat |= _dotted(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
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
    entities = [Param(name, _text(value)) for name, value in _dotted(params).items()]
    client().log_batch(target, params=entities)


def _text(value: Any) -> str:
    """Return what is stored of a parameter: digits of a number are nobody's card number."""
    return str(value) if isinstance(value, NUMBER) else anonymize_query(str(value))[:6000]


def log_model_metrics(
    metrics: Mapping[str, float], run_id: str | None = None, step: int = 0
) -> None:
    """Log all numeric ``metrics`` to a run (default: the active one) in one batch."""
    target = run_id or _active_run_id()
    numbers = {k: v for k, v in _dotted(metrics).items() if isinstance(v, NUMBER)}
    _log_series(target, ((name, value, step) for name, value in numbers.items()))


def _log_series(run_id: str, values: Iterable[tuple[str, float, int]]) -> None:
    """Log (name, value, step) in as few calls as possible: one each takes longer than an epoch."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    entities = [Metric(name, float(value), now, step) for name, value, step in values]
    store = client()
    for start in range(0, len(entities), _BATCH):
        store.log_batch(run_id, metrics=entities[start : start + _BATCH])


def run_name(step: str, experiment_id: str) -> str:
    """Return the next ``intent_classifier_<variant>_<date>_v<n>`` in an experiment."""
    variant = step.split("_", 1)[-1]
    stem = f"intent_classifier_{variant}_{datetime.date.today():%Y%m%d}_v"
    taken = client().search_runs(
        [experiment_id], filter_string=f"attributes.run_name LIKE '{stem}%'", max_results=1000
    )
    numbers = [r.info.run_name.removeprefix(stem) for r in taken]  # of folds: "1 fold 0"
    return f"{stem}{max((int(n) for n in numbers if n.isdigit()), default=0) + 1}"


class RunLogger:
    """The MLflow run of one notebook. Made by `open_logger`."""

    def __init__(self, run_id: str, experiment_id: str, tags: Mapping[str, str]) -> None:
        self.run_id = run_id
        self.experiment_id = experiment_id
        self._tags = dict(tags)
        self._folds: dict[str, str] = {}  # name of a fold's run -> its id

    def log_result(
        self, result: StepResult, file: Path, folders: Mapping[str, Path], part: str = ""
    ) -> None:
        """Log the metrics of a result, its file, and folders of artifacts by their names there.

        Of a model's result each fold becomes a child run; ``part`` is put before the names of
        the metrics of a notebook's second model.
        """
        store, prefix = client(), f"{part}_" if part else ""
        metrics = {"seconds": result.seconds, **flat_metrics(result.metrics)}
        shown = {f"{prefix}{k}": v for k, v in metrics.items() if not k.endswith("_n")}
        log_model_metrics(shown, self.run_id)
        store.log_artifact(self.run_id, str(file), "results")
        for name, folder in folders.items():
            if folder.is_dir():
                store.log_artifacts(self.run_id, str(folder), name)
        if isinstance(result, ModelResult):
            self._log_folds(result, part)

    def _log_folds(self, result: ModelResult, part: str) -> None:
        """Log each fold as a finished run below this one: three calls, tens of milliseconds.

        A notebook that logs again writes to the same children.
        """
        store, parent = client(), self._tags[_NAME]
        for row in (row for row in result.folds if "fold" in row):
            name = " ".join(word for word in (parent, part, f"fold {row['fold']}") if word)
            tags = {
                **self._tags,
                _NAME: name,
                PARENT: self.run_id,
                "nivesh.fold": str(row["fold"]),
                **({"nivesh.part": part} if part else {}),
            }
            if name not in self._folds:
                created = store.create_run(self.experiment_id, run_name=name, tags=tags)
                self._folds[name] = created.info.run_id
            log_model_metrics({k: v for k, v in row.items() if k != "fold"}, self._folds[name])
            store.set_terminated(self._folds[name], "FINISHED")

    def log_trial(
        self, name: str, params: Mapping[str, Any], folds: Sequence[float], state: str
    ) -> None:
        """Log one setting of a search, with the macro-F1 of each fold, in an experiment of its own.

        Parameters
        ----------
        state
            complete, pruned or fail, as Optuna has it.
        """
        store, experiment = client(), create_experiment("hyperparameter_tuning")
        title = f"{self._tags[_NAME]} {name}"
        tags = {**self._tags, _NAME: title, PARENT: self.run_id, "nivesh.trial": state}
        run_id = store.create_run(experiment, run_name=title, tags=tags).info.run_id
        log_model_params(params, run_id)
        _log_series(run_id, (("macro_f1_of_fold", score, k) for k, score in enumerate(folds)))
        if folds:
            log_model_metrics({"macro_f1": sum(folds) / len(folds)}, run_id)
        store.set_terminated(
            run_id, {"complete": "FINISHED", "fail": "FAILED"}.get(state, "KILLED")
        )

    def log_history(self, history: Sequence[Mapping[str, float]]) -> None:
        """Log the metrics of each training ``epoch``, one mapping each, with the epoch as step."""
        values = ((k, v, int(epoch["epoch"])) for epoch in history for k, v in epoch.items())
        _log_series(self.run_id, (value for value in values if value[0] != "epoch"))

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log further parameters; nested names get dots."""
        log_model_params(params, self.run_id)

    def log_dataset(self, dataset: Dataset) -> None:
        """Log a dataset as the input, with sizes, version and checksum, without its queries.

        A model is trained on all folds but one and validated on that one.
        """
        from mlflow.data.pandas_dataset import from_pandas
        from mlflow.entities import DatasetInput, InputTag
        from mlflow.exceptions import MlflowException

        rows, folds = len(dataset.train), max(dataset.n_folds, 1)
        sizes = {
            "num_labels": len(dataset.labels),
            "train_size": rows,
            "val_size": round(rows / folds),
            "test_size": len(dataset.manifest["holdout"]),
            "data_version": dataset.version.version,
        }
        self.log_params({"data": sizes})
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
        inputs, store = [DatasetInput(entity, tags)], client()
        try:
            store.log_inputs(self.run_id, inputs)
        except MlflowException:  # another process was the first to log this dataset, just now
            store.log_inputs(self.run_id, inputs)

    def log_model(self, name: str, directory: Path) -> str:
        """Log a model directory as an MLflow model, and return its address.

        MLflow copies it and our code. Where they lie on one disk, the copies become links: to its
        files, and to the code of the model that was logged before.
        """
        import mlflow

        versions = environment()["packages"]
        store = client()
        # It tells that it calls the model once, to see what it returns.
        logging.getLogger("mlflow.models.signature").setLevel(logging.WARNING)
        with mlflow.start_run(run_id=self.run_id):
            logged = mlflow.pyfunc.log_model(
                name=name.replace(".", "_"),
                python_model=str(_PYFUNC),
                artifacts={"model": str(directory)},
                code_paths=[str(paths.package_dir())],
                input_example=_EXAMPLES,
                # Given, since MLflow would otherwise spend seconds on guessing them.
                pip_requirements=[
                    f"{package}=={versions[package]}"
                    for package in ("mlflow", "numpy", "pandas", "scikit-learn")
                ],
            )
            os.environ.pop("MLFLOW_RUN_ID", None)
        store.update_run(self.run_id, status="RUNNING")
        copied = local_path(store.get_logged_model(logged.model_id).artifact_location)
        if copied is not None:
            codes = sorted(copied.parents[1].glob("*/artifacts/code"), key=os.path.getmtime)
            link_equal(tree_files(copied), among=tree_files(directory, *codes[-2:]))
        return f"models:/{logged.model_id}"


def open_logger(
    step: str, params: Mapping[str, Any], *, experiment: str, mode: str, run: str
) -> RunLogger:
    """Open the MLflow run of a notebook, with parameters and provenance.

    Parameters
    ----------
    experiment
        Leaf of the experiment tree.
    mode, run
        Tags: pipeline, interactive or nbval; the name of the pipeline's run, or nothing.
    """
    git = git_state()
    tags = {
        "mlflow.source.name": f"notebooks/{step}.ipynb",
        "mlflow.source.type": "NOTEBOOK",
        "mlflow.source.git.commit": git["commit"],
        "mlflow.source.git.branch": git["branch"],
        "nivesh.dirty": str(git["dirty"]),
        "nivesh.mode": mode,
        "nivesh.step": step,
        "nivesh.run": run,
        "stage": "experimental",
        "developer": author(),
        "git_commit": git["commit"],
    }
    tags = {name: value for name, value in tags.items() if value}
    experiment_id, store = create_experiment(experiment), client()
    name = run_name(step, experiment_id)
    run_id = store.create_run(experiment_id, run_name=name, tags=tags).info.run_id
    machine = environment()
    system = {
        "gpu": machine["gpu"],
        "memory_gb": round(machine["memory_bytes"] / 1e9, 1),
        "python_version": machine["python"],
        "pytorch_version": machine["packages"]["torch"],
    }
    log_model_params({**params, "system": system}, run_id)
    store.log_dict(run_id, machine, "environment.json")
    if git["patch"]:
        store.log_text(run_id, git["patch"], "dirty.patch")
    return RunLogger(run_id, experiment_id, tags | {_NAME: name})


def close_run(run_id: str, status: str) -> None:
    """Set the final status of an MLflow run: FINISHED, FAILED or KILLED.

    A process that was killed may have left the run of a fold open; it gets the status too.
    """
    store = client()
    store.set_terminated(run_id, status)
    if status == "FINISHED":
        return
    if status == "KILLED":
        _remove_unfinished_copies(store.get_run(run_id).info.artifact_uri)
    experiment_id = store.get_run(run_id).info.experiment_id
    below = f"tags.`{PARENT}` = '{run_id}' AND attributes.status = 'RUNNING'"
    for child in store.search_runs([experiment_id], filter_string=below):
        store.set_terminated(child.info.run_id, status)


def _remove_unfinished_copies(artifact_uri: str) -> None:
    """Remove the files that MLflow was copying, where the artifacts are on this machine."""
    folder = local_path(artifact_uri)
    for path in folder.rglob(".artifact.uploading.*") if folder else ():
        path.unlink(missing_ok=True)


def close_runs_of(run: str) -> None:
    """Set what a dead pipeline run left open to KILLED: the MLflow runs with its name as a tag.

    A notebook that is killed while its MLflow run is being opened has left no other note of it.
    Unfinished files of dead processes among the artifacts, where they are on this machine, go.
    """
    store = client()
    experiments = store.search_experiments()
    left = f"tags.`nivesh.run` = '{run}' AND attributes.status = 'RUNNING'"
    for found in store.search_runs([one.experiment_id for one in experiments], filter_string=left):
        store.set_terminated(found.info.run_id, "KILLED")
        _remove_unfinished_copies(found.info.artifact_uri)
    for address in {one.artifact_location for one in experiments}:
        if folder := local_path(address):
            remove_abandoned(folder)


def attach(run_id: str, files: Sequence[Path], folder: str = "notebook") -> None:
    """Add files to an MLflow run."""
    store = client()
    for file in files:
        store.log_artifact(run_id, str(file), folder)
