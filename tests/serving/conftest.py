from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from nivesh_lib.paths import shipped_model
from nivesh_lib.serving.app import create_app
from nivesh_lib.serving.settings import Settings

MakeClient = Callable[..., TestClient]


@pytest.fixture(scope="session")
def shipped() -> str:
    """The directory of the model that ships, whatever a test makes its home."""
    return str(shipped_model())


@pytest.fixture
def make_client(shipped, tmp_path: Path) -> Iterator[MakeClient]:
    """Return a function that makes a client of a server with some settings."""

    def make(address: str = "127.0.0.1", **settings) -> TestClient:
        known = {"model": shipped, "feedback": tmp_path / "feedback.jsonl"} | settings
        return TestClient(create_app(Settings(**known)), client=(address, 50_000))

    yield make


@pytest.fixture
def client(make_client: MakeClient) -> TestClient:
    return make_client()
