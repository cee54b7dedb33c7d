"""The LitServe peer of `make bench-serve`; its processes import this module.

LitServe reads annotations as they are, so that they may be no strings here.
"""

from typing import Any

import litserve

from nivesh_lib.serving.predictor import Predictor
from nivesh_lib.serving.schemas import IntentRequest
from tests.benchmarks.serving_peers import counted


class Intents(litserve.LitAPI):
    def __init__(self, model: str) -> None:
        super().__init__(api_path="/predict/intent")
        self.directory = model

    def setup(self, device: str) -> None:
        predictor = Predictor.from_directory(self.directory)
        self.answer = counted(lambda query: predictor.predict([query])[0])

    def decode_request(self, request: IntentRequest) -> str:
        return request.query

    def predict(self, query: str) -> dict[str, Any]:
        return self.answer(query)

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        return output


def server(model: str) -> litserve.LitServer:
    return litserve.LitServer(Intents(model), accelerator="cpu", workers_per_device=1)
