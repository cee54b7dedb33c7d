"""The intent classifier: a release or a model directory that answers queries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Self

from nivesh_lib.errors import ModelError
from nivesh_lib.models.base import load_with_card
from nivesh_lib.models.directory import model_hash, read_card
from nivesh_lib.serving.predictor import Predictor
from nivesh_lib.serving.released import Source, source_of
from nivesh_lib.serving.settings import NAME


class IntentClassifier:
    """Answers queries with the model that an address means, see `released.source_of`.

    Labels are known at once, the model is loaded by `load_model` or with the first query.

    Attributes
    ----------
    source : Source
        Which release or directory it is.
    label_to_id : dict
        Label -> its number, in the order of the model's classes.
    digest : str
        SHA-256 of the model.
    served_since : str
        When the model was loaded (UTC, ISO 8601); empty before.

    Examples
    --------
    >>> from nivesh_lib.paths import shipped_model
    >>> IntentClassifier(str(shipped_model())).predict("how do I save tax under 80C?")["intent"]
    'tax_planning'
    """

    def __init__(self, address: str = "") -> None:
        self.address = address
        with source_of(address) as source:
            self._know(source, read_card(source.folder))
        self._predictor: Predictor | None = None
        self.served_since = ""

    def _know(self, source: Source, card: Mapping[str, Any]) -> None:
        self.source, self.digest = source, model_hash(card)
        self.label_to_id = {label: number for number, label in enumerate(card["classes"])}
        self.id_to_label = {number: label for label, number in self.label_to_id.items()}

    @property
    def num_labels(self) -> int:
        """How many intents there are."""
        return len(self.label_to_id)

    def load_model(self) -> Self:
        """Load the model and answer one query, so that the first caller does not wait.

        Raises
        ------
        ModelError, ReleaseError
            It is not there, was altered, or needs a package that is not installed.
        """
        with source_of(self.address) as source:
            try:
                model, card = load_with_card(source.folder)
            except ModuleNotFoundError as error:
                raise ModelError(
                    f"{source}: this model needs the package {error.name}, which the core does not "
                    "install. Serve another one, or pip install 'nivesh-workbench[workbench]'"
                ) from None
        self._know(source, card)
        predictor = Predictor(model)
        predictor.predict(["warm up"])
        self._predictor = predictor
        self.served_since = datetime.now(UTC).isoformat(timespec="seconds")
        return self

    @property
    def loaded(self) -> bool:
        """Whether the model is in memory."""
        return self._predictor is not None

    def predict(self, query: str) -> dict[str, Any]:
        """Return intent, confidence, alternatives, abstained, model and release of one query."""
        return self.predict_batch([query])[0]

    def predict_batch(self, queries: Iterable[str]) -> list[dict[str, Any]]:
        """Return what `predict` returns for each query, in order."""
        if self._predictor is None:
            self.load_model()
        assert self._predictor is not None
        answers = self._predictor.predict(queries)
        for answer in answers:
            if "abstained" not in answer:
                answer["abstained"] = answer["confidence"] < self.source.min_confidence
            answer["model"], answer["release"] = NAME, self.source.release
        return answers
