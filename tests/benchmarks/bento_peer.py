"""The BentoML peer of `make bench-serve`, where BentoML looks for it."""

from __future__ import annotations

import os
from typing import Any

import bentoml

from nivesh_lib.serving.predictor import Predictor
from nivesh_lib.serving.schemas import IntentRequest


@bentoml.service(workers=1, logging={"access": {"enabled": False}})
class Bento:
    """Answers lists of queries, which BentoML makes longer ones of; it counts by itself."""

    def __init__(self) -> None:
        self.predictor = Predictor.from_directory(os.environ["BENCH_MODEL"])

    @bentoml.api(route="/predict/intent", batchable=True)
    def predict(self, asked: list[IntentRequest]) -> list[dict[str, Any]]:
        return self.predictor.predict([one.query for one in asked])
