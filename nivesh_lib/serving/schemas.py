"""Bodies of requests and answers, and the problem that is sent in place of an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from nivesh_lib.serving.settings import MAX_BATCH, MAX_CHARACTERS

EXAMPLE = "Can I afford a ₹50L home loan?"


def _asked(text: str) -> str:
    """Return a query in the one form that the model and the cache see."""
    text = " ".join(text.split())
    if not any(character.isprintable() and not character.isspace() for character in text):
        raise ValueError("is empty; ask something")
    if "\0" in text:
        raise ValueError("has a NUL character; leave it out")
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"has {len(text):,} characters, at most {MAX_CHARACTERS} are answered")
    return text


_LENGTHS: dict[str, Any] = {"minLength": 1, "maxLength": MAX_CHARACTERS}  # without outer blanks
Query = Annotated[
    str, AfterValidator(_asked), Field(examples=[EXAMPLE], json_schema_extra=_LENGTHS)
]
UserId = Annotated[str, Field(max_length=100, description="For feature flags; not kept.")]
Name = Annotated[str, Field(max_length=200)]


class Body(BaseModel):
    """A body of a request: JSON types as they are, and no other fields."""

    model_config = ConfigDict(strict=True, extra="forbid", protected_namespaces=())


class IntentRequest(Body):
    """One query."""

    query: Query
    user_id: UserId | None = None


class BatchRequest(Body):
    """Several queries, answered in their order."""

    queries: Annotated[list[Query], Field(min_length=1, max_length=MAX_BATCH)]
    user_id: UserId | None = None


class Correction(Body):
    """What a query should have been answered with; ``predicted`` is what was answered."""

    query: Query
    intent: Annotated[Name, Field(examples=["affordability_check"])]
    predicted: Name | None = None
    release: Annotated[str, Field(max_length=40)] | None = None


class Alternative(BaseModel):
    """Another intent."""

    intent: str
    confidence: float


class Answer(BaseModel):
    """The intent of a query. ``abstained``: a person should answer, confidence is too low."""

    intent: Annotated[str, Field(examples=["affordability_check"])]
    confidence: Annotated[float, Field(ge=0, le=1)]
    alternatives: list[Alternative]
    abstained: bool
    model: Annotated[str, Field(examples=["intent_classifier"])]
    release: Annotated[str, Field(description="Empty where no release is served.")]


class BatchAnswer(BaseModel):
    """One answer for each query, in their order."""

    answers: list[Answer]


class Kept(BaseModel):
    """Where a correction can be found in the file of corrections."""

    id: str


class Health(BaseModel):
    """``status`` is healthy, or degraded with the reasons. ``intents``: all that it tells apart."""

    status: str
    reasons: list[str]
    model: str
    release: str
    served_since: str
    intents: list[str]


class ProblemDocument(BaseModel):
    """Why a request was not answered (RFC 9457)."""

    title: str
    status: int
    detail: str
    errors: list[str] = []


class Problem(Exception):
    """Raised in place of an answer."""

    def __init__(
        self,
        status: int,
        title: str,
        detail: str,
        errors: Sequence[str] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(title)
        self.status = status
        self.headers = dict(headers or {})
        self.document: dict[str, Any] = {"title": title, "status": status, "detail": detail}
        if errors:
            self.document["errors"] = list(errors)


def problem_of(error: ValidationError) -> Problem:
    """Return what to tell of a body that does not fit; it repeats nothing of the body's values."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    if any(one["type"] == "json_invalid" for one in found):
        return Problem(400, "Malformed JSON", found[0]["msg"])
    named = [f"{_place(one)}: {one['msg'].removeprefix('Value error, ')}" for one in found]
    told = named[:10] + ([f"and {len(named) - 10} more"] if len(named) > 10 else [])
    return Problem(422, "The request does not fit", told[0], told)


def _place(error: Mapping[str, Any]) -> str:
    """Return the field of an error; the name of one that there is not is the caller's text."""
    if error["type"] == "extra_forbidden":
        return "a field that there is not"
    parts = [f"[{one}]" if isinstance(one, int) else f".{one}" for one in error["loc"]]
    return "".join(parts).lstrip(".") or "body"
