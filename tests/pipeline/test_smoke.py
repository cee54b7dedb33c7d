"""The real notebooks on the shipped data, in the smoke profile."""

from __future__ import annotations

import json
import re
import shutil

from nivesh_lib.pipeline.run import run_pipeline
from tests.conftest import REPOSITORY
from tests.models.conftest import tiny


def test_the_shipped_pipeline_goes_through_and_reports(tmp_path, monkeypatch, store):
    for name in ("notebooks", "data"):
        shutil.copytree(REPOSITORY / name, tmp_path / name)
    shutil.copy(REPOSITORY / "requirements.lock", tmp_path)
    monkeypatch.setenv("NIVESH_HOME", str(tmp_path))
    lines: list[str] = []
    backbone = f"BACKBONE={tiny()}"  # nbval takes the real one
    record, run = run_pipeline(profile="smoke", settings=[backbone], report=lines.append)
    assert {step.status for step in record.steps.values()} == {"done"}, lines
    assert not (tmp_path / "reports" / "latest").exists()  # smoke is never the latest good run
    _check_report(run.path)
    _check_tracking(record)
    _check_no_code_in_pages(run.path)


def _check_report(folder):
    page = (folder / "index.html").read_text()
    assert len(page) < 1_000_000
    assert not re.search(r'(src|href)="(https?:)?//(?!127\.0\.0\.1)', page)
    for step in ("01_data_validation", "02_baseline", "03_tfidf", "06_cv_and_bias", "08_drift"):
        assert f'href="notebooks/{step}.html"' in page
    assert (folder / "drift" / "08_drift" / "evidently.html").is_file()
    chosen = json.loads((folder / "results" / "07_optimization.json").read_text())
    assert chosen["metrics"]["threads"] == 2  # the step's own number
    assert all(alt for alt in re.findall(r'<img [^>]*alt="([^"]*)"', page))


def _check_no_code_in_pages(folder):
    for page in (folder / "notebooks").glob("*.html"):
        text = page.read_text()
        assert "start_run(" not in text and "N_BOOT" not in text and "injected" not in text


def _check_tracking(record):
    import mlflow

    client = mlflow.MlflowClient()
    for name, step in record.steps.items():
        run = client.get_run(step.mlflow_run_id)
        assert run.info.status == "FINISHED"
        assert run.data.tags["nivesh.mode"] == "pipeline"
        assert run.inputs.dataset_inputs[0].dataset.name == "intents@1.1.0"
        logged = {f.path for f in client.list_artifacts(run.info.run_id, "notebook")}
        assert logged == {f"notebook/{name}.ipynb", f"notebook/{name}.html"}
    tfidf = client.get_run(record.steps["03_tfidf"].mlflow_run_id)
    assert re.fullmatch(r"intent_classifier_tfidf_\d{8}_v1", tfidf.info.run_name)
    _check_model(tfidf)


def _check_model(run):
    import mlflow

    uri = f"models:/{run.outputs.model_outputs[0].model_id}"
    model = mlflow.pyfunc.load_model(uri)
    answer = model.predict(["how do I save tax under 80C?"])
    assert answer["intent"].iloc[0] in answer.columns
    assert model.metadata.signature is not None and model.input_example is not None
    assert json.loads(model.metadata.to_json())
