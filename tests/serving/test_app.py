from __future__ import annotations

import json

import pytest
from prometheus_client import REGISTRY

from nivesh_lib.serving import metrics
from nivesh_lib.serving.middleware import count_request
from nivesh_lib.serving.predictor import Predictor
from nivesh_lib.serving.settings import MAX_BODY

QUERIES = ["Can I afford a car loan?", "80c me kitna bachega", "rent", "मुझे टैक्स बचाना है"]
SECRET = "is my PAN ABCPE1234F blocked"
PREDICT = "/predict/intent"
BATCH = "/predict/intent/batch"
JSON = {"content-type": "application/json"}


def test_an_answer_is_the_predictor_s_with_model_release_and_abstention(client, shipped):
    expected = Predictor.from_directory(shipped).predict(QUERIES)
    for query, wanted in zip(QUERIES, expected, strict=True):
        answer = client.post(PREDICT, json={"query": query}).json()
        assert {key: answer[key] for key in wanted} == wanted
        assert answer["abstained"] == (answer["confidence"] < 0.7)
        assert (answer["model"], answer["release"]) == ("intent_classifier", "")


def test_a_batch_is_answered_in_order_as_its_queries_one_by_one(client):
    many = [f"{query} {i}" for i in range(60) for query in QUERIES]
    answers = client.post(BATCH, json={"queries": many}).json()["answers"]
    assert answers == [client.post(PREDICT, json={"query": query}).json() for query in many]


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        (PREDICT, "", 400, "Malformed JSON"),
        (PREDICT, "{", 400, "Malformed JSON"),
        (PREDICT, "[" * 100_000, 400, "Malformed JSON"),
        (PREDICT, '{"query": "\\ud800"}', 400, "Malformed JSON"),
        (PREDICT, b'{"query": "\xff"}', 400, "Malformed JSON"),
        (PREDICT, '{"query": "a\\u0000"}', 422, "NUL"),
        (PREDICT, '{"query": NaN}', 422, "string"),
        (PREDICT, '{"query": null}', 422, "string"),
        (PREDICT, '{"query": " \\n "}', 422, "empty"),
        (PREDICT, '{"query": "\\u200b\\u200d"}', 422, "empty"),
        (PREDICT, '{"query": "x", "my pan is ABCPE1234F": 1}', 422, "a field that there is not"),
        (PREDICT, json.dumps({"query": "x" * 501}), 422, "at most 500"),
        (PREDICT, '{"querry": "x"}', 422, "query: Field required"),
        (PREDICT, '{"query": "x", "user_id": 7}', 422, "user_id"),
        (PREDICT, "[]", 422, "object"),
        (PREDICT, "7", 422, "object"),
        (BATCH, '{"queries": ["a", null]}', 422, r"queries[1]"),
        (BATCH, '{"queries": []}', 422, "queries"),
        (BATCH, json.dumps({"queries": ["a"] * 1_001}), 422, "at most 1000"),
        (BATCH, json.dumps({"queries": [""] * 50}), 422, "and 40 more"),
        ("/feedback", '{"query": "x", "intent": "tax"}', 422, "there is no such one"),
    ],
)
def test_bad_input_is_a_readable_problem(client, path, body, status, said):
    response = client.post(path, content=body, headers=JSON)
    assert response.status_code == status and said in response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert set(response.json()) >= {"title", "status", "detail"} and len(response.text) < 2_000
    assert "ABCPE1234F" not in response.text


def test_a_body_that_is_too_large_is_refused_declared_or_not(client):
    large = b'{"query": "' + b"x" * MAX_BODY + b'"}'
    assert client.post(PREDICT, content=large, headers=JSON).status_code == 413
    parts = (large[at : at + 2**16] for at in range(0, len(large), 2**16))
    assert client.post(PREDICT, content=parts, headers=JSON).status_code == 413


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_what_is_not_declared_as_json_is_refused(client, kind):
    response = client.post(PREDICT, content='{"query": "x"}', headers={"content-type": kind})
    assert response.status_code == 415


def test_unknown_places_and_methods_are_problems_that_name_what_there_is(client):
    for response, status in ((client.get("/predict"), 404), (client.get(PREDICT), 405)):
        assert (
            response.status_code == status and "/predict/intent/batch" in response.json()["detail"]
        )


@pytest.mark.parametrize(
    ("given", "status"), [({}, 401), ({"X-API-Key": "wrong"}, 403), ({"X-API-Key": ""}, 403)]
)
def test_without_one_of_its_keys_nothing_is_answered(make_client, given, status):
    client = make_client("203.0.113.7", keys=("old", "new"))
    for path in (PREDICT, BATCH, "/feedback"):
        assert client.post(path, json={"query": "tax"}, headers=given).status_code == status


def test_no_address_leads_to_another_that_the_caller_names(make_client):
    client = make_client(keys=("key",))
    for path in ("/predict/intent/", "/feedback/", "/health/"):
        response = client.get(path, headers={"Host": "evil.example"}, follow_redirects=False)
        assert response.status_code == 404


def test_each_of_several_keys_opens_it(make_client):
    client = make_client("203.0.113.7", keys=("old", "new"))
    for key in ("old", "new", " new\t"):
        done = client.post(PREDICT, json={"query": "tax"}, headers={"X-API-Key": key})
        assert done.status_code == 200


@pytest.mark.parametrize(
    ("address", "status"), [("127.0.0.1", 200), ("::1", 200), ("10.0.0.5", 403), ("::2", 403)]
)
def test_without_a_key_only_the_same_machine_is_answered(make_client, address, status):
    assert make_client(address).post(PREDICT, json={"query": "tax"}).status_code == status


@pytest.mark.parametrize("path", ["/", "/health", "/metrics", PREDICT])
def test_without_a_key_no_page_reaches_it_by_a_name_of_its_own(client, path):
    own = ["localhost:8000", "127.0.0.1", "127.0.0.1:8000", "[::1]:8000", "testserver"]
    others = ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:8000", "x", ""]
    for name, refused in {**dict.fromkeys(own, False), **dict.fromkeys(others, True)}.items():
        headers = {"Host": name}
        found = client.request("GET" if path != PREDICT else "POST", path, headers=headers)
        assert (found.status_code == 403) is refused, name
        assert not refused or found.json()["title"] == "Not from here"


def test_keys_and_queries_are_in_no_log_metric_or_error(make_client, capfdbinary, monkeypatch):
    client = make_client(keys=("key-to-hide",))
    key = {"X-API-Key": "key-to-hide"}
    client.post(PREDICT, json={"query": SECRET}, headers=key)
    client.post(PREDICT, json={"query": SECRET, "more": 1}, headers=key)
    client.post(PREDICT, json={"query": SECRET}, headers={"X-API-Key": "key-to-try"})
    service = client.app.state.service
    monkeypatch.setattr(service.classifier, "predict_batch", _fail)
    failed = client.post(PREDICT, json={"query": f"{SECRET} again"}, headers=key)
    assert failed.status_code == 500 and failed.json()["title"] == "Internal error"
    told = capfdbinary.readouterr().out.decode() + client.get("/metrics").text + failed.text
    assert '"error":"RuntimeError"' in told and "test_app.py" in told  # where it was
    assert "ABCPE1234F" not in told and "blocked" not in told and "key-to" not in told


def _fail(queries: list[str]) -> None:
    raise RuntimeError(f"cannot answer {queries}")


def test_queries_are_logged_anonymised_where_that_is_asked_for(make_client, capfdbinary):
    make_client(log_queries=True).post(PREDICT, json={"query": SECRET})
    lines = capfdbinary.readouterr().out.decode().splitlines()
    (logged,) = [json.loads(line) for line in lines if '"request"' in line]
    assert logged["asked"] == ["is my PAN [PAN] blocked"]
    assert logged["status"] == 200 and logged["ms"] > 0 and logged["release"] == ""


@pytest.mark.parametrize("query", ["₹" * 500, "😀" + "\x01" * 499, "a@b " * 125, "ask"])
def test_a_line_of_the_log_fits_into_a_pipe_whatever_was_asked(make_client, capfdbinary, query):
    client = make_client(log_queries=True)
    for path, asked in ((PREDICT, {"query": query}), (BATCH, {"queries": [query] * 1_000})):
        sent = client.post(path, json=asked, headers={"X-Request-ID": "x" * 64})
        assert sent.status_code == 200
        line = capfdbinary.readouterr().out.splitlines()[-1]
        shown = json.loads(line)
        assert len(line) < 4_000 and shown["asked"]
        assert shown["queries"] == (1 if path == PREDICT else 1_000)


def test_a_request_keeps_its_id_unless_it_could_forge_a_log(client):
    for given, kept in (("abc-1", True), ("a b", False), ("x" * 65, False)):
        response = client.post(PREDICT, json={"query": "x"}, headers={"X-Request-ID": given})
        assert (response.headers["x-request-id"] == given) is kept


def test_an_answer_is_kept_for_the_same_text_and_can_be_switched_off(make_client, monkeypatch):
    for cache, asked in ((True, 1), (False, 3)):
        client = make_client(cache=cache)
        classifier = client.app.state.service.ready()
        calls, answer = [], classifier.predict_batch
        monkeypatch.setattr(classifier, "predict_batch", lambda q: calls.append(q) or answer(q))  # noqa: B023
        found = [client.post(PREDICT, json={"query": q}).json() for q in ("a b", " a  b ", "a b")]
        assert found[0] == found[1] == found[2] and len(calls) == asked
        assert SECRET not in str(client.app.state.service.__dict__)


def test_a_correction_is_kept_without_personal_data(client, tmp_path):
    correction = {"query": SECRET, "intent": "tax_planning", "predicted": "general_question"}
    response = client.post("/feedback", json=correction)
    (line,) = (tmp_path / "feedback.jsonl").read_text().splitlines()
    kept = json.loads(line)
    assert response.status_code == 201 and kept["id"] == response.json()["id"]
    assert kept["query"] == "is my PAN [PAN] blocked" and kept["intent"] == "tax_planning"


def test_a_correction_that_cannot_be_kept_is_no_success(make_client, tmp_path):
    (tmp_path / "file").touch()
    client = make_client(feedback=tmp_path / "file" / "feedback.jsonl")
    assert "is no folder" in str(client.get("/health").json()["reasons"])  # before the first one
    correction = {"query": "x", "intent": "tax_planning"}
    response = client.post("/feedback", json=correction)
    assert response.status_code == 503 and response.headers["retry-after"]
    assert "corrections cannot be kept" in str(client.get("/health").json()["reasons"])
    (tmp_path / "file").unlink()
    assert client.post("/feedback", json=correction).status_code == 201
    assert client.get("/health").json()["status"] == "healthy"


def test_overload_is_refused_before_the_body_is_read(client, monkeypatch):
    admission = client.app.state.service.admission
    monkeypatch.setattr(admission, "_taken", True)
    monkeypatch.setattr(admission, "queries", 10_000)
    response = client.post(PREDICT, content="no JSON", headers=JSON)
    assert response.status_code == 503 and response.headers["retry-after"] == "1"
    assert client.get("/health").json()["status"] == "degraded"
    assert client.post("/feedback", json={"query": "x", "intent": "tax_planning"}).is_success


def test_without_a_model_it_says_what_is_missing(make_client, tmp_path):
    client = make_client(model=str(tmp_path))
    for response in (client.post(PREDICT, json={"query": "x"}), client.get("/ready")):
        assert response.status_code == 503 and "no model.json here" in response.json()["detail"]
    health = client.get("/health").json()
    assert health["status"] == "degraded" and "no model.json here" in health["reasons"][0]


def test_metrics_have_the_seed_s_names_and_labels(client):
    client.post(PREDICT, json={"query": "save tax"})
    client.post(PREDICT, json={"query": ""})
    client.get("/no/such/place")
    text = client.get("/metrics").text
    named = 'model_name="intent_classifier",release="none"'
    for line in (
        f'model_predictions_total{{{named},status="success"}}',
        f'model_predictions_total{{{named},status="refused"}}',
        f"model_prediction_latency_seconds_count{{{named}}}",
        'intent_predictions_by_label_total{intent="tax_planning"}',
        'prediction_confidence_bucket{le="0.95",model_name="intent_classifier"}',
        "active_models_count 1.0",
        "model_memory_mb",
        'http_responses_total{path="other",status="404"}',
    ):
        assert line in text, line
    assert "no/such" not in text  # values of labels are bounded


@pytest.mark.parametrize(
    ("predicted", "agrees"), [("tax_planning", "yes"), ("loan_inquiry", "no"), (None, "unknown")]
)
def test_a_correction_agrees_only_where_it_says_what_was_answered(client, predicted, agrees):
    def counted() -> float:
        return REGISTRY.get_sample_value("feedback_corrections_total", {"agrees": agrees})

    before, said = counted(), {"query": "save tax", "intent": "tax_planning"}
    assert client.post("/feedback", json=said | {"predicted": predicted}).status_code == 201
    assert counted() == before + 1


@pytest.mark.parametrize(
    ("status", "outcome"), [(200, "success"), (422, "refused"), (500, "error"), (503, "overload")]
)
def test_a_request_is_counted_by_its_outcome(status, outcome):
    def counted() -> float:
        named = {"model_name": "intent_classifier", "release": "none", "status": outcome}
        return REGISTRY.get_sample_value("model_predictions_total", named)

    metrics.announce("")
    before = counted()
    count_request(status, 0.001, "")
    assert counted() == before + 1 and outcome in metrics.OUTCOMES


def test_openapi_describes_bodies_answers_and_problems(client):
    paths = client.get("/openapi.json").json()["paths"]
    assert set(paths) == {PREDICT, BATCH, "/feedback", "/health", "/ready", "/metrics"}
    for path in (PREDICT, BATCH, "/feedback"):
        described = paths[path]["post"]
        body = described["requestBody"]["content"]["application/json"]["schema"]
        assert body["additionalProperties"] is False and body["required"]
        assert {"400", "401", "403", "413", "415", "422", "503"} <= set(described["responses"])
