from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

from nivesh_lib.__main__ import main

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs ``nivesh`` as the console script does, in this process."""

    def run_main(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = ["nivesh", *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", command)
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        code = end.value.code
        return subprocess.CompletedProcess(
            command, code if isinstance(code, int) else 0, *capsys.readouterr()
        )

    return run_main
