"""Which release a server answers with, and how another one takes its place."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
from collections import Counter

import httpx
import pytest

from nivesh_lib import paths
from nivesh_lib.errors import ModelError, ReleaseError
from nivesh_lib.releases.package import Package
from nivesh_lib.releases.promotion import promote
from nivesh_lib.serving import metrics, watching
from nivesh_lib.serving import service as service_module
from nivesh_lib.serving.app import create_app
from nivesh_lib.serving.classifier import IntentClassifier
from nivesh_lib.serving.settings import Settings
from nivesh_lib.serving.watching import DriftWatch
from tests.conftest import REPOSITORY
from tests.releases.world import STEP, rows
from tests.serving.test_workers import serving

TEXTS = {"save refund 80c": ("tax", "rent"), "flat pay landlord": ("rent", "tax")}  # by release


def serve_the_worse_one() -> None:
    promote("1.0.1", "production", override="to see it taken")


@pytest.mark.parametrize(
    ("address", "release", "stage"),
    [
        ("", "1.0.0", "staging"),
        ("staging", "1.0.0", "staging"),
        ("v1.0.1", "1.0.1", ""),
        ("reports/releases/intent_classifier/1.0.1", "1.0.1", ""),
        ("reports/releases/intent_classifier/1.0.1/model", "", ""),
    ],
)
def test_an_address_means_a_release_or_a_directory(released, address, release, stage):
    source = IntentClassifier(address).source
    assert (source.release, source.stage) == (release, stage)


def test_without_an_address_production_comes_before_staging(released):
    serve_the_worse_one()
    assert str(IntentClassifier().source) == "release 1.0.1 in production"


@pytest.mark.parametrize("address", ["production", "9.9.9"])
def test_what_is_not_there_is_refused_with_what_to_do(released, address):
    with pytest.raises(ReleaseError, match=r"nivesh (promote|history|release)"):
        IntentClassifier(address)


def test_an_altered_release_is_refused_by_name_and_passed_over_by_default(released):
    (Package.of("intent_classifier", "1.0.0").folder / "rows.json").write_text("[]")
    with pytest.raises(ReleaseError, match="records altered"):
        IntentClassifier("staging")
    source = IntentClassifier().source
    assert source.release == "" and source.folder == paths.latest_run() / "models" / STEP
    assert "release in staging is not served" in source.passed_over[0]


def test_a_package_copied_without_its_log_is_verified_by_its_own_record(released, tmp_path):
    copy = shutil.copytree(Package.of("intent_classifier", "1.0.1").folder, tmp_path / "copy")
    assert IntentClassifier(str(copy)).source.release == "1.0.1"
    (copy / "model" / "model.json").write_text("{}")
    with pytest.raises(ReleaseError, match="altered"):
        IntentClassifier(str(copy))


async def asked_until(client: httpx.AsyncClient, done) -> Counter[tuple[int, str, bool]]:
    """Ask from eight sides until ``done()``; count status, release, whether it is its answer."""
    seen: Counter[tuple[int, str, bool]] = Counter()

    async def ask() -> None:
        while not done(seen):
            for text, wanted in TEXTS.items():
                got = await client.post("/predict/intent", json={"query": text})
                answer = got.json()
                right = wanted[answer["release"] == "1.0.1"]
                seen[got.status_code, answer["release"], answer["intent"] == right] += 1
                await asyncio.sleep(0.001)

    await asyncio.wait_for(asyncio.gather(*(ask() for _ in range(8))), 20)
    return seen


def test_a_promotion_under_load_fails_no_request_and_mixes_no_answer(released, monkeypatch):
    monkeypatch.setattr(service_module, "_LOOK", 0.05)

    async def run() -> Counter[tuple[int, str, bool]]:
        app = create_app(Settings(max_wait=5))
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://test") as client,
        ):
            promoting = asyncio.create_task(asyncio.to_thread(serve_the_worse_one))
            seen = await asked_until(client, lambda seen: seen[200, "1.0.1", True] > 50)
            await promoting
            assert app.state.service.reasons() == []
            return seen

    seen = asyncio.run(run())
    assert set(seen) == {(200, "1.0.0", True), (200, "1.0.1", True)}


def test_what_answers_stays_where_the_next_release_or_the_log_is_not_there(released, monkeypatch):
    monkeypatch.setattr(service_module, "_LOOK", 0.02)

    log = paths.release_log()
    before = log.read_text()
    serve_the_worse_one()
    after = log.read_text()
    log.write_text(before)
    shutil.rmtree(Package.of("intent_classifier", "1.0.1").folder)

    async def run() -> None:
        app = create_app(Settings())
        service = app.state.service
        async with app.router.lifespan_context(app):
            for text, said in ((after, "not on this machine"), (after[:-9], "release_log.jsonl")):
                log.write_text(text)
                await until(lambda: said in str(service.reasons()))  # noqa: B023
                assert service.release == "1.0.0"
            log.write_text(before)
            await until(lambda: not service.reasons())

    asyncio.run(run())


def test_answers_to_other_queries_than_held_out_ones_are_told_as_drift(released, monkeypatch):
    monkeypatch.setattr(service_module, "_LOOK", 0.02)
    alike, other = rows(watching.LEAST, 7)["query"].tolist(), ["mera bachat kitna hai"] * 500

    told: list[tuple[bool, float]] = []
    monkeypatch.setattr(metrics, "tell_drift", lambda *found: told.append(found))

    async def run() -> None:
        app = create_app(Settings(drift_every=0.0))
        service = app.state.service
        async with app.router.lifespan_context(app):
            assert told == [(False, 1.0)]  # nothing was tested yet
            await service.answer(alike)
            await until(lambda: len(told) == 2)
            assert not told[1][0]
            await service.answer(other)
            await until(lambda: len(told) == 3)
            assert told[2][0] and told[2][1] <= 0.05
            assert service.reasons() == []  # drift alone degrades no server
            serve_the_worse_one()
            await until(lambda: service.release == "1.0.1")
            assert told[3:] == [(False, 1.0)]

    asyncio.run(run())


def test_a_release_of_before_keeps_no_answers_to_compare_with(released):
    package, served = Package.of("intent_classifier", "1.0.0"), IntentClassifier("1.0.0")
    assert DriftWatch.of(served)
    bare = [row.changed(language="") for row in package.answers()]
    file = {"rows": [row.as_dict() for row in bare]}
    (package.folder / "rows.json").write_text(json.dumps(file))
    assert DriftWatch.of(served) is None


async def until(condition) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


def test_the_copied_release_is_served_without_git_from_a_folder_that_is_not_written_to(
    released, tmp_path, monkeypatch
):
    page = (REPOSITORY / "docs" / "deployment.md").read_text(encoding="utf-8")
    (commands,) = re.findall(r"```bash\n(mkdir -p /srv/nivesh/.*?)```", page, re.DOTALL)
    place = tmp_path / "srv"
    moved = commands.replace("/srv/nivesh", str(place))
    subprocess.run(["bash", "-euc", moved], cwd=released, check=True)
    before = sorted(place.rglob("*"))
    monkeypatch.setenv("NIVESH_HOME", str(place))
    monkeypatch.setenv("NIVESH_FEEDBACK", str(tmp_path / "feedback.jsonl"))
    with serving(tmp_path / "log") as (_, address):
        sent = {"query": "save refund", "intent": "tax"}
        assert httpx.post(f"{address}/feedback", json=sent).status_code == 201
        assert httpx.get(f"{address}/health").json()["release"] == "1.0.0"
    assert sorted(place.rglob("*")) == before
    shutil.rmtree(place / "data")
    with pytest.raises(ModelError, match="no release is in production or in staging"):
        IntentClassifier()
