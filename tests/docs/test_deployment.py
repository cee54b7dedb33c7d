"""docs/deployment.md and docs/troubleshooting.md, followed to the letter."""

from __future__ import annotations

import ast
import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

import nivesh_lib
from nivesh_lib.errors import ReleaseError
from nivesh_lib.releases.signing import PUBLIC_KEY, SIGNING_KEY, verify
from tests.conftest import REPOSITORY

PAGE = (REPOSITORY / "docs" / "deployment.md").read_text(encoding="utf-8")
TROUBLES = (REPOSITORY / "docs" / "troubleshooting.md").read_text(encoding="utf-8")


def strings() -> str:
    """Return all that the library may say, each piece of text on a line of its own."""
    files = Path(nivesh_lib.__file__).parent.rglob("*.py")
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text()))]
    constants = [node.value for node in nodes if isinstance(node, ast.Constant)]
    return "\n".join(value for value in constants if isinstance(value, str))


def test_every_message_of_the_page_is_one_of_the_library():
    rows = [line.split("|")[1] for line in TROUBLES.splitlines() if line.startswith("| `")]
    pieces = [piece for row in rows for piece in re.findall(r"`([^`]+)`", row)]
    assert len(pieces) >= len(rows) > 20
    said = strings()
    assert [piece for piece in pieces if piece not in said] == []


@pytest.fixture
def keys(tmp_path, monkeypatch) -> Path:
    """The folder of the keys that the page's commands make."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl")
    monkeypatch.setenv("HOME", str(tmp_path))
    (commands,) = (c for c in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL) if "openssl" in c)
    subprocess.run(["bash", "-euc", commands], check=True, capture_output=True, cwd=tmp_path)
    for name, value in re.findall(r"`(NIVESH_\w+)=(~[^`]+)`", PAGE):
        monkeypatch.setenv(name, str(Path(value).expanduser()))  # as a shell does
    return tmp_path / ".nivesh"


def test_the_private_key_is_for_its_owner_alone(keys):
    assert stat.S_IMODE((keys / "signing.pem").stat().st_mode) == 0o600
    assert stat.S_IMODE(keys.stat().st_mode) == 0o700
    assert os.environ[SIGNING_KEY] == str(keys / "signing.pem")
    assert os.environ[PUBLIC_KEY] == str(keys / "signing.pub")


def test_the_keys_sign_and_verify_as_the_page_says(keys, tmp_path, monkeypatch):
    reason = "the extra signing is not installed"
    for package in ("model_signing", "OpenSSL"):
        pytest.importorskip(package, reason=reason)
    monkeypatch.chdir(tmp_path)
    package = tmp_path / "reports" / "releases" / "intent_classifier" / "1.0.0"
    (package / "model").mkdir(parents=True)
    (package / "model" / "model.json").write_text("{}")
    with pytest.raises(ReleaseError, match="is not signed"):
        verify(package)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    exec(code, {})
    verify(package)
