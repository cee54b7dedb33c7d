"""The seed's unit and integration tests as printed, but for the lines that import."""

from fastapi.testclient import TestClient

from nivesh_lib.serving.app import app
from nivesh_lib.serving.classifier import IntentClassifier

client = TestClient(app)


def test_classifier_initialization():
    classifier = IntentClassifier()
    assert classifier.num_labels == 14
    assert classifier.label_to_id["affordability_check"] == 0


def test_prediction_format():
    classifier = IntentClassifier()
    classifier.load_model()

    result = classifier.predict("Can I afford a loan?")

    assert "intent" in result
    assert "confidence" in result
    assert "alternatives" in result
    assert 0 <= result["confidence"] <= 1


def test_edge_cases():
    classifier = IntentClassifier()
    classifier.load_model()

    # Empty query
    result = classifier.predict("")
    assert result is not None

    # Very long query
    long_query = "test " * 1000
    result = classifier.predict(long_query)
    assert result is not None


def test_intent_endpoint():
    response = client.post("/predict/intent", json={"query": "Can I afford a car loan?"})
    assert response.status_code == 200
    data = response.json()
    assert data["intent"] == "affordability_check"
    assert data["confidence"] > 0.7


def test_health_check():
    response = client.get("/health")
    assert response.status_code == 200
    data = response.json()
    assert data["status"] in ["healthy", "degraded"]
