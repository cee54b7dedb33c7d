"""The HTTP server: ``uvicorn nivesh_lib.serving.app:app``, or ``nivesh serve``.

Routes read bodies themselves and call the model on the event loop: FastAPI's own reading of
bodies and writing of answers takes longer than a small model.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response, Security
from fastapi.concurrency import run_in_threadpool
from fastapi.routing import APIRoute
from fastapi.security import APIKeyHeader
from pydantic import BaseModel, ValidationError
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from nivesh_lib import __version__
from nivesh_lib.errors import NiveshError
from nivesh_lib.privacy import anonymize_query
from nivesh_lib.serving import feedback, metrics, page
from nivesh_lib.serving.logs import logger
from nivesh_lib.serving.middleware import Front
from nivesh_lib.serving.schemas import (
    Answer,
    BatchAnswer,
    BatchRequest,
    Correction,
    Health,
    IntentRequest,
    Kept,
    Problem,
    ProblemDocument,
    problem_of,
)
from nivesh_lib.serving.service import Service
from nivesh_lib.serving.settings import MAX_BODY, NAME, Settings

# `Front` checks keys; this tells readers of the OpenAPI.
_KEY = [Security(APIKeyHeader(name="X-API-Key", auto_error=False))]
B = TypeVar("B", bound=BaseModel)
_LOGGED = 3_200  # bytes of a request's queries in its line, which has to fit into PIPE_BUF
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"description": "The body is no JSON"},
    401: {"description": "No key"},
    403: {"description": "Wrong key, or no key is set and this is no caller from this machine"},
    413: {"description": "The body is too large"},
    415: {"description": "The body is not declared as JSON"},
    422: {"description": "The body does not fit"},
    503: {"description": "Overloaded, or no model is ready; Retry-After says when to come again"},
}
for _one in _PROBLEMS.values():
    _one["content"] = {"application/problem+json": {"schema": ProblemDocument.model_json_schema()}}


def create_app(settings: Settings | None = None) -> FastAPI:
    """Return a server with settings of its own, by default those of the environment.

    The model is loaded when the server starts, or with the first request where no lifespan runs.
    """
    chosen = settings or Settings.read()
    service = Service(chosen, logger())

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        try:
            await service.start()
        except NiveshError as error:
            sys.stderr.write(f"error: {error}\n")
            raise
        yield
        await service.stop()

    app = FastAPI(
        title="Nivesh intent classifier",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,  # to an address that the caller's Host header names
    )
    app.state.service = service
    _add_predictions(app, service)
    _add_feedback(app, service)
    posts = [one for one in app.routes if isinstance(one, APIRoute) and one.methods == {"POST"}]
    routes = {route.path: route.endpoint for route in posts}
    _add_state(app, service)
    app.add_exception_handler(HTTPException, _http)
    app.add_middleware(Front, keys=chosen.keys, service=service, routes=routes)
    return app


async def read(request: Request, kind: type[B]) -> B:
    """Return a request's body, checked. Raises Problem where it does not fit."""
    body = bytearray()
    try:
        async for part in request.stream():
            body += part
            if len(body) > MAX_BODY:
                raise Problem(413, "Body too large", f"at most {MAX_BODY:,} bytes are read")
    except ClientDisconnect:  # no mistake of ours: it counts as refused
        raise Problem(400, "Incomplete body", "the connection was closed before its end") from None
    try:
        return kind.model_validate_json(bytes(body))
    except ValidationError as error:
        raise problem_of(error) from None


def _documented(kind: type[BaseModel]) -> dict[str, Any]:
    """Return what OpenAPI is told of a body that a route reads itself."""
    content = {"application/json": {"schema": kind.model_json_schema()}}
    return {"requestBody": {"required": True, "content": content}}


def _add_predictions(app: FastAPI, service: Service) -> None:
    @app.post(
        "/predict/intent",
        summary="Tell the intent of one query",
        response_model=Answer,
        responses=_PROBLEMS,
        dependencies=_KEY,
        openapi_extra=_documented(IntentRequest),
    )
    async def predict_intent(request: Request) -> Response:
        asked = await read(request, IntentRequest)
        answers = await service.answer([asked.query], asked.user_id)
        _note(request, answers, [asked.query])
        return _json(answers[0])

    @app.post(
        "/predict/intent/batch",
        summary="Tell the intents of up to 1,000 queries",
        response_model=BatchAnswer,
        responses=_PROBLEMS,
        dependencies=_KEY,
        openapi_extra=_documented(BatchRequest),
    )
    async def predict_intents(request: Request) -> Response:
        asked = await read(request, BatchRequest)
        answers = await service.answer(asked.queries, asked.user_id)
        _note(request, answers, asked.queries)
        return _json({"answers": answers})

    def _note(request: Request, answers: list[dict[str, Any]], queries: list[str]) -> None:
        """Tell the log of a request what it cannot see."""
        noted = request.scope["state"]["log"]
        noted["release"], noted["queries"] = answers[0]["release"], len(queries)
        if service.settings.log_queries:
            noted["asked"] = _logged(queries)


def _logged(queries: list[str]) -> list[str]:
    """Return the first queries, anonymised, as many as fit into a line of the log."""
    shown: list[str] = []
    left = _LOGGED
    for query in queries:
        text = anonymize_query(query)
        left -= len(to_json(text)) + 1
        if left < 0:
            break
        shown.append(text)
    return shown


def _add_feedback(app: FastAPI, service: Service) -> None:
    @app.post(
        "/feedback",
        summary="Correct an answer",
        status_code=201,
        response_model=Kept,
        responses=_PROBLEMS,
        dependencies=_KEY,
        openapi_extra=_documented(Correction),
    )
    async def correct(request: Request) -> Response:
        correction = await read(request, Correction)
        known = service.ready().label_to_id
        if correction.intent not in known:
            told = f"intent: there is no such one. There are {', '.join(known)}"
            raise Problem(422, "The request does not fit", told, [told])
        try:
            kept = await run_in_threadpool(feedback.keep, correction, service.settings.feedback)
        except OSError as error:
            service.unkept = f"corrections cannot be kept: {error.strerror}"
            told = f"the correction could not be kept ({error.strerror}); send it again later"
            raise Problem(503, "Not kept", told, headers={"retry-after": "60"}) from None
        service.unkept = ""
        agrees = "yes" if correction.predicted == correction.intent else "no"
        metrics.corrections.labels(agrees if correction.predicted else "unknown").inc()
        return _json({"id": kept}, 201)


def _add_state(app: FastAPI, service: Service) -> None:
    @app.get("/health", summary="Whether the server is healthy, and why not", response_model=Health)
    async def health() -> Response:
        reasons = service.reasons()
        try:
            served = service.ready()
        except NiveshError as error:
            return _json(_health([*reasons, str(error)]))
        told = {"release": served.source.release, "served_since": served.served_since}
        return _json(_health(reasons) | told | {"intents": list(served.label_to_id)})

    @app.get("/ready", summary="Whether queries are answered", responses={503: _PROBLEMS[503]})
    async def ready() -> Response:
        service.ready()
        return _json({"status": "ready"})

    @app.get("/metrics", summary="Metrics for Prometheus", response_class=Response)
    async def exposition() -> Response:
        return Response(metrics.exposition(), media_type=metrics.CONTENT_TYPE)

    @app.get("/", include_in_schema=False)
    async def ask() -> Response:
        return Response(page.HTML, media_type="text/html", headers=page.HEADERS)


def _health(reasons: list[str]) -> dict[str, Any]:
    status = "degraded" if reasons else "healthy"
    known = {"status": status, "reasons": reasons, "model": NAME}
    return known | {"release": "", "served_since": "", "intents": []}


def _json(value: Any, status: int = 200) -> Response:
    return Response(to_json(value), status, media_type="application/json")


async def _http(request: Request, error: Any) -> Response:
    """Raise what `Front` answers with."""
    detail = "there are: GET /, /health, /ready, /metrics, /openapi.json; POST /predict/intent, "
    told = f"{request.method} is not answered here; {detail}/predict/intent/batch, /feedback"
    raise Problem(error.status_code, error.detail, told, headers=error.headers)


app = create_app()
