"""The install that deploy/Dockerfile makes, in a virtual environment: what is in it, its start."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import httpx
import pytest

from nivesh_lib.paths import shipped_model
from tests.conftest import REPOSITORY
from tests.deploy.test_image import SERVER, all_of, copied
from tests.serve_lock import normal
from tests.serving.test_workers import serving

pytestmark = pytest.mark.slow
SITE = "/usr/local/lib/python3.11/site-packages"
LARGEST = 400e6  # bytes
SECONDS = 3


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Iterator[Path]:
    """A virtual environment in which the Dockerfile's own commands were run."""
    folder = tmp_path_factory.mktemp("install")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    site = subprocess.check_output(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
    ).strip()
    for name in copied(SERVER):
        copy = shutil.copytree if (REPOSITORY / name).is_dir() else shutil.copy
        copy(REPOSITORY / name, folder / name)
    pip = f"{sys.executable} -m pip --python {python} install"
    packages, package, *_ = all_of(SERVER, "RUN")
    for command in (packages, package):
        here = command.replace("pip install", pip).replace(SITE, site)
        done = subprocess.run(["sh", "-euc", here], cwd=folder, capture_output=True, text=True)
        if done.returncode and command is packages:
            pytest.skip(f"pip cannot install here: {done.stderr.strip().splitlines()[-1]}")
        assert done.returncode == 0, done.stderr
    yield folder / "venv"


def site_of(venv: Path) -> Path:
    (site,) = venv.glob("lib/python3*/site-packages")
    return site


def test_it_has_what_its_packages_need_and_none_of_the_heavy_ones(installed):
    pip = [sys.executable, "-m", "pip", "--python", str(installed / "bin" / "python")]
    subprocess.run([*pip, "check"], check=True)
    listed = subprocess.check_output([*pip, "list", "--format=freeze"], text=True).splitlines()
    heavy = {"torch", "transformers", "mlflow", "pandas", "jupyterlab", "matplotlib", "evidently"}
    names = {normal(line.partition("==")[0]) for line in listed}
    assert "nivesh-workbench" in names and not heavy & names


def test_it_takes_no_more_than_400_mb(installed):
    files = [file for file in site_of(installed).rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    assert size <= LARGEST


def test_a_server_answers_soon_after_its_start(installed, tmp_path, monkeypatch):
    """The best of three; processor time, which other programs lengthen little."""
    for name in [name for name in os.environ if name.startswith(("NIVESH_", "ML_", "PYTHON"))]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    program = [str(installed / "bin" / "nivesh"), "serve"]
    walls, processor = [], []
    for _ in range(3):
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), monotonic()
        with serving(tmp_path / "log", "--model", str(shipped_model()), program=program) as (_, at):
            while not is_ready(at):
                assert monotonic() < start + 60
            walls.append(monotonic() - start)
            sent = httpx.post(f"{at}/predict/intent", json={"query": "how do I save tax"})
            assert sent.json()["intent"] == "tax_planning"
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        processor.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(processor) < SECONDS, f"{processor} s of a processor, {walls} s in all"


def is_ready(address: str) -> bool:
    try:
        return httpx.get(f"{address}/ready").status_code == 200
    except httpx.HTTPError:
        return False
