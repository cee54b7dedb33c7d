"""Processes of ``python -m MODULE`` that start by a fork instead of by seconds of importing.

`Forked` takes the place of ``subprocess.Popen``. A process that has imported the libraries and done
nothing else is forked, and the fork runs the module as ``__main__``: process ids, parents,
sessions, standard streams, environment and everything written are those of a started process.
A kill at a random moment then falls into the work and not into the imports.

A process that will start others forks them at its own beginning, before it opens a file or a
database, and they wait to be told what to run.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import os
import pickle
import runpy
import socket
import subprocess
import sys
import threading
import traceback
import warnings
from pathlib import Path
from typing import Any, NoReturn

from tests.torture.processes import apart

LIBRARIES = (
    *("nivesh_lib.cli.app", "nivesh_lib.pipeline.run", "nivesh_lib.notebook.session"),
    *("nivesh_lib.models.text.tfidf", "nivesh_lib.reporting.html", "nivesh_lib.data.validation"),
    *("nivesh_lib.data.publishing", "nivesh_lib.pipeline.worker", "pyarrow.parquet"),
    *("ipykernel.kernelapp", "ipykernel.ipkernel", "matplotlib_inline.backend_inline"),
    *("mlflow.pyfunc", "mlflow.data.pandas_dataset", "mlflow.store.tracking.sqlalchemy_store"),
)
FROZEN = Path(__file__).parents[1] / "frozen" / "models"
# How many processes a module starts: the pipeline one for each notebook, a notebook its kernel.
STARTS = {"nivesh_lib": 3, "nivesh_lib.pipeline.worker": 1}
_only_imported = True  # whether this process has done nothing else
_waiting: list[tuple[int, socket.socket]] = []  # forks of this process that wait: id, line to it


class Forked(subprocess.Popen[bytes]):
    """A forked process of ``python -m MODULE``; any other command is started as usual."""

    def _execute_child(self, args: Any, executable: Any, *rest: Any) -> None:
        of_module = isinstance(args, list) and args[:2] == [sys.executable, "-m"]
        # The fork of a process at work would have its files, locks and threads.
        if not of_module or not (_waiting or _only_imported):
            super()._execute_child(args, executable, *rest)  # type: ignore[misc]
            return
        # As subprocess._execute_child of Python 3.11 and 3.12 is called.
        cwd, env, ends, session = rest[3], rest[4], rest[8:14], rest[-2]
        if not _waiting:
            _fork_ahead(1)
        self.pid, line = _waiting.pop(0)
        streams = [ends[0], ends[3], ends[5]]  # what the child reads, writes, writes errors to
        numbers = [own if end == -1 else end for own, end in enumerate(streams)]
        order = pickle.dumps((args[2:], dict(env or os.environ), cwd, bool(session)))
        socket.send_fds(line, [order], numbers)
        line.recv(1)  # the session is its own now, which the caller relies on
        line.close()
        self._child_created = True
        self._close_pipe_fds(*ends)  # type: ignore[attr-defined]


def _fork_ahead(count: int) -> None:
    """Fork processes that wait for an order and end when this process does."""
    for _ in range(count):
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            for _, line in [*_waiting, (0, ours)]:
                line.close()
            _waiting.clear()
            _obey(theirs)
        theirs.close()
        _waiting.append((pid, ours))


def _obey(line: socket.socket) -> NoReturn:
    """Wait for an order; run its module with its streams, environment and folder; end."""
    global _only_imported
    status = 1
    try:
        order, streams, _, _ = socket.recv_fds(line, 1 << 20, 3)
        if not order:  # the parent ended and needed no such process
            os._exit(0)
        argv, environment, folder, session = pickle.loads(order)
        if session:
            os.setsid()
        line.send(b"1")
        line.close()
        for own, number in enumerate(streams):
            os.dup2(number, own)
            os.close(number)
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder or ".")
        home = Path(environment.get("NIVESH_HOME", "-")).name  # found by `processes.of_home`
        Path("/proc/self/comm").write_text(f"{home}/{argv[0].rpartition('.')[2]}")
        _fork_ahead(STARTS.get(argv[0], 0))
        _only_imported = False
        sys.argv = argv
        runpy.run_module(argv[0], run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        threading._shutdown()  # type: ignore[attr-defined]  # as Python does when it ends
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def warm_up() -> None:
    """Import the libraries, and let this process and its forks start others by a fork."""
    warnings.filterwarnings("ignore", category=RuntimeWarning, module="runpy")
    for name in LIBRARIES:
        importlib.import_module(name)
    # This one reads at its import who its parent is.
    delattr(sys.modules["ipykernel"], "kernelapp")
    del sys.modules["ipykernel.kernelapp"]
    launcher = importlib.import_module("jupyter_client.launcher")
    for module in (subprocess, launcher):
        module.Popen = Forked  # type: ignore[attr-defined]
    gc.collect()
    gc.freeze()


def _note_modules(note: Path) -> None:
    from nivesh_lib.models.base import load_model

    for card in sorted(FROZEN.glob("*/model.json")):
        load_model(card.parent)
    note.write_text("\n".join(sys.modules))


def warm_up_models(note: Path) -> None:
    """Import what the loading of any model imports; a fork loads some and writes it to ``note``."""
    apart(_note_modules, note)
    for name in note.read_text().splitlines():
        if not name.startswith("__"):
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
    gc.collect()
    gc.freeze()
