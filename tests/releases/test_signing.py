from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from nivesh_lib.errors import MissingExtra, ReleaseError
from nivesh_lib.releases.signing import PUBLIC_KEY, SIGNING_KEY, check_key, sign, verify

installed = pytest.mark.skipif(
    importlib.util.find_spec("model_signing") is None
    or importlib.util.find_spec("OpenSSL") is None,
    reason="the extra signing is not installed: pip install 'nivesh-workbench[signing]'",
)


def write_keys(folder: Path, name: str) -> tuple[str, str]:
    """Write a pair of keys; return the paths of the private and the public one."""
    folder.mkdir(exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    (folder / f"{name}.pem").write_bytes(private)
    (folder / f"{name}.pub").write_bytes(public)
    return str(folder / f"{name}.pem"), str(folder / f"{name}.pub")


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the network was asked")

    for name in ("socket.socket.connect", "socket.getaddrinfo", "socket.create_connection"):
        monkeypatch.setattr(name, refuse)


@pytest.fixture
def keys(tmp_path, monkeypatch):
    """Keys in use; returns their paths."""
    private, public = write_keys(tmp_path / "keys", "ours")
    monkeypatch.setenv(SIGNING_KEY, private)
    monkeypatch.setenv(PUBLIC_KEY, public)
    return private, public


@pytest.fixture
def package(tmp_path):
    model = tmp_path / "1.0.0" / "model"
    (model / "members").mkdir(parents=True)
    (model / "model.json").write_text("{}")
    (model / "members" / "weights.safetensors").write_bytes(b"weights")
    return model.parent


@pytest.fixture
def signed(package, keys, no_network):
    sign(package)
    return package


@installed
def test_a_signed_package_verifies_without_a_network(signed):
    verify(signed)
    bundle = json.loads((signed / "model.sig").read_text())
    assert bundle["mediaType"].startswith("application/vnd.dev.sigstore.bundle")
    assert sorted(path.name for path in signed.iterdir()) == ["model", "model.sig"]


@installed
def test_a_package_verifies_where_it_is_copied_to(signed, tmp_path):
    verify(shutil.copytree(signed, tmp_path / "elsewhere"))


@installed
def test_signing_again_is_allowed(signed):
    sign(signed)
    verify(signed)


def change(model: Path) -> None:
    (model / "members" / "weights.safetensors").write_bytes(b"others")


def add(model: Path) -> None:
    (model / "more.json").write_text("{}")


def add_what_git_keeps(model: Path) -> None:
    (model / ".gitattributes").write_text("")


def rename(model: Path) -> None:
    (model / "model.json").rename(model / "card.json")


def remove(model: Path) -> None:
    (model / "members" / "weights.safetensors").unlink()


def link(model: Path) -> None:
    (model / "link.json").symlink_to(model / "model.json")


def remove_all(model: Path) -> None:
    shutil.rmtree(model)


ALTERATIONS = [change, add, add_what_git_keeps, rename, remove, link, remove_all]


@installed
@pytest.mark.parametrize("alter", ALTERATIONS, ids=lambda function: function.__name__)
def test_a_signature_of_other_files_is_refused(alter, signed):
    alter(signed / "model")
    with pytest.raises(ReleaseError, match=r"is no signature of these files .*Do not use"):
        verify(signed)


@installed
def test_the_signature_of_another_model_is_refused(signed, tmp_path):
    other = shutil.copytree(signed, tmp_path / "2.0.0")
    change(other / "model")
    sign(other)
    shutil.copy(other / "model.sig", signed / "model.sig")
    with pytest.raises(ReleaseError, match=r"weights\.safetensors"):
        verify(signed)


@installed
def test_a_missing_signature_is_refused(package, keys):
    with pytest.raises(ReleaseError, match=r"is not signed.* NIVESH_SIGNING_KEY"):
        verify(package)


@installed
def test_the_signature_of_another_key_is_refused(signed, tmp_path, monkeypatch):
    monkeypatch.setenv(PUBLIC_KEY, write_keys(tmp_path / "keys", "theirs")[1])
    with pytest.raises(ReleaseError, match="Key mismatch"):
        verify(signed)


@installed
def test_a_signature_that_claims_the_key_of_another_is_refused(signed, tmp_path, monkeypatch):
    ours = json.loads((signed / "model.sig").read_text())["verificationMaterial"]
    monkeypatch.setenv(SIGNING_KEY, write_keys(tmp_path / "keys", "theirs")[0])
    sign(signed)
    theirs = json.loads((signed / "model.sig").read_text())
    (signed / "model.sig").write_text(json.dumps(theirs | {"verificationMaterial": ours}))
    with pytest.raises(ReleaseError, match="InvalidSignature"):
        verify(signed)


@installed
@pytest.mark.parametrize("content", ["", "null", "[]", "{}", '{"verificationMaterial": {}}', "\0"])
def test_a_file_that_is_no_signature_is_refused(content, signed):
    (signed / "model.sig").write_text(content)
    with pytest.raises(ReleaseError, match="is no signature of these files"):
        verify(signed)


def test_without_keys_nothing_is_signed_or_checked(package, monkeypatch):
    monkeypatch.delenv(SIGNING_KEY, raising=False)
    monkeypatch.delenv(PUBLIC_KEY, raising=False)
    check_key()
    sign(package)
    verify(package)
    assert [path.name for path in package.iterdir()] == ["model"]


@pytest.mark.parametrize("missing", ["model_signing", "OpenSSL"])
@pytest.mark.parametrize("function", [sign, verify, lambda _: check_key()])
def test_a_key_without_the_extra_is_an_error_that_says_how_to_install_it(
    function, missing, package, keys, monkeypatch
):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingExtra, match=r"pip install 'nivesh-workbench\[signing\]'"):
        function(package)


def encrypted(folder: Path) -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    how = serialization.BestAvailableEncryption(b"secret")
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how)
    (folder / "encrypted.pem").write_bytes(pem)
    return str(folder / "encrypted.pem")


def of_rsa(folder: Path) -> str:
    key = rsa.generate_private_key(65537, 2048)
    how = serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how)
    (folder / "rsa.pem").write_bytes(pem)
    return str(folder / "rsa.pem")


def the_key_itself(folder: Path) -> str:
    return Path(write_keys(folder, "pasted")[0]).read_text()


KEYS = [
    *(encrypted, of_rsa, the_key_itself),
    lambda folder: "",
    lambda folder: str(folder),
    lambda folder: str(folder / "none.pem"),
]


@installed
@pytest.mark.parametrize("make", KEYS)
@pytest.mark.parametrize(
    "variable, function",
    [
        (SIGNING_KEY, sign),
        (SIGNING_KEY, lambda _: check_key()),
        (PUBLIC_KEY, verify),
    ],
)
def test_a_key_that_cannot_be_used_is_an_error_that_shows_nothing_of_it(
    variable, function, make, package, tmp_path, monkeypatch
):
    value = make(tmp_path)
    monkeypatch.setenv(variable, value)
    with pytest.raises(ReleaseError, match=f"^{variable} does not name a") as raised:
        function(package)
    assert not value or value not in str(raised.value)
    assert raised.value.__suppress_context__  # nor does a traceback
    assert not (package / "model.sig").exists()


@installed
def test_a_model_with_a_link_is_not_signed(package, keys):
    link(package / "model")
    with pytest.raises(ReleaseError, match="cannot be signed"):
        sign(package)
    assert [path.name for path in package.iterdir()] == ["model"]
