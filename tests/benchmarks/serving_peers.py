"""Servers of one model directory, each a process: ``python -m … NAME DIRECTORY PORT``.

Each peer is written as its own guide shows, calls the same `Predictor`, reads the same body with
pydantic, and counts with prometheus_client where the framework does not count by itself.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from nivesh_lib.models.base import load_model
from nivesh_lib.serving.predictor import Predictor
from nivesh_lib.serving.schemas import IntentRequest

HOST = "127.0.0.1"


def counted(answer: Callable[[str], dict[str, Any]]) -> Callable[[str], dict[str, Any]]:
    """Return the same with the counters that our server has for an answer."""
    from prometheus_client import Counter, Histogram

    latency = Histogram("latency_seconds", "of an answer", ["model"])
    predictions = Counter("predictions", "answers", ["model", "status"])
    intents = Counter("intents", "answers by intent", ["intent"])
    confidences = Histogram("confidence", "of an answer", ["model"])

    def counting(query: str) -> dict[str, Any]:
        started = perf_counter()
        told = answer(query)
        predictions.labels("intent", "success").inc()
        intents.labels(told["intent"]).inc()
        confidences.labels("intent").observe(told["confidence"])
        latency.labels("intent").observe(perf_counter() - started)
        return told

    return counting


def fastapi(model: str, port: int) -> None:
    """FastAPI with a plain ``def``, which runs in its thread pool."""
    import uvicorn
    from fastapi import FastAPI

    predictor = Predictor.from_directory(model)
    answer = counted(lambda query: predictor.predict([query])[0])
    app = FastAPI()

    @app.post("/predict/intent")
    def predict(asked: IntentRequest) -> dict[str, Any]:
        return answer(asked.query)

    uvicorn.run(app, host=HOST, port=port, access_log=False, log_level="warning")


def bento(model: str, port: int) -> None:
    """BentoML, which answers what waits in one batch."""
    os.environ |= {"BENCH_MODEL": model, "BENTOML_DO_NOT_TRACK": "true"}
    service = "tests.benchmarks.bento_peer:Bento"
    _become("bentoml", "serve", service, "--host", HOST, "--port", str(port))


def litserve(model: str, port: int) -> None:
    """LitServe, whose model has a process of its own."""
    from tests.benchmarks.litserve_peer import server

    server(model).run(
        host=HOST, port=port, num_api_servers=1, generate_client_file=False, log_level="warning"
    )


def mlflow(model: str, port: int) -> None:
    """MLflow's server of the pyfunc by which runs log a model."""
    from mlflow import pyfunc

    from nivesh_lib import tracking

    os.environ["UVICORN_ACCESS_LOG"] = "false"
    with tempfile.TemporaryDirectory() as folder:
        pyfunc.save_model(
            f"{folder}/model",
            python_model=str(Path(tracking.__file__).with_name("pyfunc_model.py")),
            artifacts={"model": model},
            input_example=["Can I afford a ₹50L home loan?"],
            pip_requirements=["mlflow"],
        )
        where = ("--host", HOST, "--port", str(port), "--workers", "1", "--env-manager", "local")
        _become("mlflow", "models", "serve", "--model-uri", f"{folder}/model", *where)


def constant(model: str, port: int) -> None:
    """Our server with a model that answers at once, whatever it is asked."""
    os.environ["NIVESH_SERVE_MODEL"] = model  # so that it follows no release to another one
    from nivesh_lib.serving import app, workers
    from nivesh_lib.serving.classifier import IntentClassifier

    classifier = IntentClassifier(model).load_model()
    classifier._predictor = Predictor(Constant(load_model(model).classes_))
    app.app.state.service.classifier = classifier
    with workers.bind(HOST, port) as bound:
        sys.exit(workers.serve(bound, 1))


class Constant:
    """Stands in for a `TextClassifier`."""

    def __init__(self, classes: np.ndarray) -> None:
        self.classes_ = classes
        self.row = np.linspace(1.0, 0.0, len(classes))[np.newaxis]

    def predict_proba(self, texts: list[str]) -> np.ndarray:
        return self.row.repeat(len(texts), axis=0)


def _become(package: str, *arguments: str) -> None:
    """Go on as a program of the same environment, which finds others of it."""
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    os.execv(sys.executable, [sys.executable, "-m", package, *arguments])


if __name__ == "__main__":
    names = {one.__name__: one for one in (fastapi, bento, litserve, mlflow, constant)}
    names[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
