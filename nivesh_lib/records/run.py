"""What a run of the pipeline records: ``run.json``, and ``steps/<step>.json`` for each step."""

from __future__ import annotations

from typing import Any

from nivesh_lib.records.base import Record


class Failure(Record):
    """Why a notebook stopped; ``cell`` is its execution count, where one is known."""

    cause: str
    detail: str
    cell: int | None = None


class StepRecord(Record):
    """One step in ``run.json``.

    ``status`` is done, failed or skipped; of a skipped one only that and ``why`` are known.
    ``cached_from`` is the run whose files were used again.
    """

    status: str
    key: str = ""
    parameters: dict[str, Any] = {}
    mlflow_run_id: str | None = None
    cells: int = 0
    seconds: float | None = None
    failure: Failure | None = None
    threads: int | None = None
    why: str = ""
    cached_from: str = ""

    @property
    def done(self) -> bool:
        """Whether the notebook ran to its end."""
        return self.status == "done"


class FinishedStep(StepRecord):
    """``steps/<step>.json``, which a worker writes last: a step without one did not finish.

    ``ingredients`` decide the content key, ``files`` are paths below the run directory with
    their SHA-256.
    """

    key: str
    parameters: dict[str, Any]
    cells: int
    seconds: float
    ingredients: dict[str, Any]
    files: dict[str, str]

    def summary(self) -> StepRecord:
        """Return what ``run.json`` keeps of it."""
        kept = self.model_dump(include=set(StepRecord.model_fields), exclude_unset=True)
        return StepRecord.model_validate(kept)


class DatasetRecord(Record):
    """The dataset version of a run."""

    ref: str
    sha256: str = ""
    rows: int = 0


class Git(Record):
    """The state of the code; ``commit`` is empty or None without git.

    ``patch`` holds what was not committed of the code, without data and notebooks; None where it
    is not known.
    """

    commit: str | None = ""
    dirty: bool = False
    patch: str | None = None


class Processor(Record):
    """The processor that a run was made on."""

    model: str = ""


class Environment(Record):
    """Machine, interpreter and versions of packages."""

    processor: Processor = Processor()
    cores: int | None = None
    python: str = ""
    packages: dict[str, str] = {}


class Example(Record):
    """The answer of a run's best model, which ``step`` made, to one query, as a line of text."""

    query: str
    answer: str
    step: str = ""


class RunRecord(Record):
    """``run.json``. ``status`` is running, done, failed or killed; ``seconds`` are wall time.

    ``complete`` says that all steps of the dataset's family are done in a profile for use.
    ``example`` spares whoever shows the run again the loading of its model.
    """

    run: str
    status: str
    profile: str
    dataset: DatasetRecord
    started: str
    steps: dict[str, StepRecord]
    git: Git
    environment: Environment
    mlflow_uri: str = ""
    seconds: float
    ended: str | None = None
    complete: bool
    example: Example | None = None

    @property
    def failed(self) -> list[str]:
        """The names of the steps that failed."""
        return [name for name, step in self.steps.items() if step.status == "failed"]
