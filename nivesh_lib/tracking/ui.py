"""``make ui``: MLflow's server on the store that the runs use."""

from __future__ import annotations

import os
import sys

from nivesh_lib.tracking.store import prepare_store


def main(arguments: list[str]) -> None:
    """Replace this process by ``mlflow server`` with arguments such as ``--port 5001``."""
    uri = prepare_store()
    defaults = ["--host", "127.0.0.1", "--workers", "1"]
    if "--port" not in arguments:
        defaults += ["--port", "5000"]
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri]
    os.execv(sys.executable, [*command, *defaults, *arguments])


if __name__ == "__main__":
    main(sys.argv[1:])
