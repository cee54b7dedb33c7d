"""The shipped notebooks on a sample of the shipped data, in the smoke profile."""

from __future__ import annotations

import json
import re

import pytest

from nivesh_lib.pipeline.run import DEFAULT_DATASET
from tests.reporting.pages import check_page


@pytest.fixture
def smoke(finished_smoke, monkeypatch):
    """Record and run directory, with their home and store in use."""
    home, record, folder, store = finished_smoke
    monkeypatch.setenv("NIVESH_HOME", str(home))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    return record, folder


def test_all_notebooks_go_through_and_a_smoke_run_is_never_the_latest_good_one(smoke):
    record, folder = smoke
    assert sorted(record.steps)[::7] == ["01_data_validation", "08_drift"]
    assert {step.status for step in record.steps.values()} == {"done"}
    assert not (folder.parent.parent / "latest").exists()


def test_the_report_links_every_page_and_loads_nothing_from_elsewhere(smoke):
    _, folder = smoke
    page = (folder / "index.html").read_text()
    assert len(page) < 1_500_000
    assert not re.search(r'(src|href)="(https?:)?//(?!127\.0\.0\.1)', page)
    for step in ("01_data_validation", "02_baseline", "03_tfidf", "06_cv_and_bias", "08_drift"):
        assert f'href="notebooks/{step}.html"' in page
    assert (folder / "drift" / "08_drift" / "evidently.html").is_file()
    assert all(alt for alt in re.findall(r'<img [^>]*alt="([^"]*)"', page))


def test_every_page_allows_its_own_scripts_alone_and_needs_nothing_else(smoke):
    pages = list(smoke[1].rglob("*.html"))
    assert len(pages) > 8
    for page in pages:
        check_page(page.read_text(encoding="utf-8"))


def test_a_step_has_its_own_number_of_threads(smoke):
    chosen = json.loads((smoke[1] / "results" / "07_optimization.json").read_text())
    assert chosen["metrics"]["threads"] == 2


def test_pages_of_notebooks_show_no_code(smoke):
    for page in (smoke[1] / "notebooks").glob("*.html"):
        text = page.read_text()
        assert (
            "start_run(" not in text
            and ("N_BOOT" not in text or page.stem == "09_release")
            and "injected" not in text
        )


def test_every_step_is_tracked_with_its_data_and_its_notebook(smoke):
    import mlflow

    client = mlflow.MlflowClient()
    for name, step in smoke[0].steps.items():
        run = client.get_run(step.mlflow_run_id)
        assert run.info.status == "FINISHED"
        assert run.data.tags["nivesh.mode"] == "pipeline"
        data = "intents@1.1.0" if name == "08_drift" else DEFAULT_DATASET
        assert run.inputs.dataset_inputs[0].dataset.name == data
        logged = {f.path for f in client.list_artifacts(run.info.run_id, "notebook")}
        assert logged == {f"notebook/{name}.ipynb", f"notebook/{name}.html"}


def test_a_tracked_model_is_named_and_can_be_loaded_and_asked(smoke):
    import mlflow

    run = mlflow.MlflowClient().get_run(smoke[0].steps["03_tfidf"].mlflow_run_id)
    assert re.fullmatch(r"intent_classifier_tfidf_\d{8}_v1", run.info.run_name)
    uri = f"models:/{run.outputs.model_outputs[0].model_id}"
    model = mlflow.pyfunc.load_model(uri)
    answer = model.predict(["how do I save tax under 80C?"])
    assert answer["intent"].iloc[0] in answer.columns
    assert model.metadata.signature is not None and model.input_example is not None
    assert json.loads(model.metadata.to_json())
