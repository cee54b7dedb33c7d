"""The command ``nivesh serve``: a released model behind HTTP."""

from __future__ import annotations

import ipaddress
import os
from typing import Annotated

import typer

from nivesh_lib.cli.options import echo
from nivesh_lib.reproducibility import thread_environment


def serve(
    model: Annotated[
        str,
        typer.Option(
            envvar="NIVESH_SERVE_MODEL",
            help="production, staging, a version such as 1.2.0, or a directory; default: the "
            "release in production, else in staging, else the last run's best small model.",
        ),
    ] = "",
    host: Annotated[
        str, typer.Option(help="Address to listen on; a public one needs ML_API_KEY.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0 takes a free one.")] = 8000,
    name: Annotated[
        str, typer.Option(envvar="NIVESH_SERVE_NAME", help="The registered model.")
    ] = "intent_classifier",
    workers: Annotated[int, typer.Option(min=1, max=64, help="Processes, one a core.")] = 1,
) -> None:
    """Answer queries over HTTP until it is stopped; keys and limits are environment variables.

    Example: nivesh serve --model staging --port 8000 --workers 2
    """
    os.environ["NIVESH_SERVE_MODEL"], os.environ["NIVESH_SERVE_NAME"] = model, name
    # Workers are what uses the cores; threads of a tokenizer would only be waited for.
    os.environ.update(thread_environment(1) | {"TOKENIZERS_PARALLELISM": "false"})
    from nivesh_lib.serving import feedback
    from nivesh_lib.serving.classifier import IntentClassifier
    from nivesh_lib.serving.released import follows_log
    from nivesh_lib.serving.settings import Settings
    from nivesh_lib.serving.workers import bind
    from nivesh_lib.serving.workers import serve as work

    try:
        settings = Settings.read()
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if not settings.keys and not _is_loopback(host):
        raise typer.BadParameter(
            f"--host {host} is open to other machines, and ML_API_KEY is not set. Set a key, "
            "or listen on 127.0.0.1"
        )
    source = IntentClassifier(model).source  # a model that cannot be served is told before
    for one in (*source.passed_over, feedback.obstacle(settings.feedback)):
        if one:
            echo(f"warning: {one}", err=True)
    with bind(host, port) as bound:
        where = f"[{host}]" if ":" in host else host
        echo(f"Serving {source} on http://{where}:{bound.getsockname()[1]}", err=True)
        if source.release and not follows_log(model):
            echo("It stays with that release, whatever is promoted, and is in no canary.", err=True)
        raise typer.Exit(work(bound, workers))


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
