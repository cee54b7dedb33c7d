"""Signatures of packages: ``model.sig`` beside ``model/``, with a key of one's own.

They are those of OpenSSF's model-signing (the extra ``signing``): a Sigstore bundle with the
SHA-256 of every file of ``model/``, signed with ECDSA. Nothing is asked of a network. No error
repeats the value of a variable, where somebody may have put the key itself.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

from nivesh_lib.errors import MissingExtra, ReleaseError
from nivesh_lib.files import atomic_path, write_errors
from nivesh_lib.paths import relative

SIGNING_KEY = "NIVESH_SIGNING_KEY"
PUBLIC_KEY = "NIVESH_PUBLIC_KEY"


def check_key() -> None:
    """Raise as `sign` would for its key; for before the holdout is opened."""
    _signer()


def sign(package: Path) -> None:
    """Sign ``model/`` of a package; does nothing where ``NIVESH_SIGNING_KEY`` is not set.

    The variable names a file with a private key: PEM, an elliptic curve (P-256), no passphrase.

    Raises
    ------
    MissingExtra
        The variable is set, and the extra ``signing`` is not installed.
    ReleaseError
        The key cannot be used, or the model cannot be read.
    DataError
        The signature cannot be written.
    """
    if (signer := _signer()) is None:
        return
    with write_errors(package), atomic_path(package / "model.sig") as partial:
        try:
            signer.sign(package / "model", partial)
        except ValueError as error:  # a link, or no folder
            raise ReleaseError(
                f"{relative(package / 'model')}: cannot be signed ({_short(error)}). Release the "
                "model again"
            ) from None


def verify(package: Path) -> None:
    """Check the signature of ``model/``; does nothing where ``NIVESH_PUBLIC_KEY`` is not set.

    A variable that is set but empty is a key that cannot be read, so that a mistake in a
    configuration does not switch the check off.

    Raises
    ------
    MissingExtra
        The variable is set, and the extra ``signing`` is not installed.
    ReleaseError
        The key cannot be used; or the signature is missing, of another key or of other files.
    """
    if (key := _key(PUBLIC_KEY)) is None:
        return
    from model_signing import verifying

    try:
        config = verifying.Config().use_elliptic_key_verifier(public_key=key)
    except Exception:
        raise _unusable(PUBLIC_KEY, "public") from None
    signature = package / "model.sig"
    if not signature.is_file():
        raise ReleaseError(
            f"{relative(package)}: is not signed, and {PUBLIC_KEY} is set. Release it again with "
            f"{SIGNING_KEY}, or take a package that is signed"
        )
    config.set_hashing_config(_every_file())
    try:
        config.verify(package / "model", signature)
    except Exception as error:  # whatever a file that somebody made up can raise
        raise ReleaseError(
            f"{relative(signature)}: is no signature of these files by the key of {PUBLIC_KEY} "
            f"({_short(error)}). Do not use this package; restore it from where it was released"
        ) from None


def _signer() -> Any:
    """Return the signer with the configured key, None where there is none."""
    if (key := _key(SIGNING_KEY)) is None:
        return None
    from model_signing import signing

    try:
        config = signing.Config().use_elliptic_key_signer(private_key=key)
    except Exception:
        raise _unusable(SIGNING_KEY, "private") from None
    return config.set_hashing_config(_every_file())


def _key(variable: str) -> str | None:
    """Return the path in a variable, None where it is not set; MissingExtra without the extra."""
    value = os.environ.get(variable)
    if value is None:
        return None
    # The second is a package that the first imports.
    if any(importlib.util.find_spec(name) is None for name in ("model_signing", "OpenSSL")):
        raise MissingExtra(
            f"{variable} is set, which needs an extra: pip install 'nivesh-workbench[signing]'"
        )
    return value


def _unusable(variable: str, which: str) -> ReleaseError:
    return ReleaseError(
        f"{variable} does not name a {which} key that can be used. Set it to the path of a PEM "
        "file with an elliptic-curve key (P-256) and no passphrase; docs/deployment.md says how to "
        "make one"
    )


def _every_file() -> Any:
    """Return the way to hash: every file, also those that git keeps beside its own."""
    from model_signing import hashing

    return hashing.Config().set_ignored_paths(paths=[], ignore_git_paths=False)


def _short(error: Exception) -> str:
    return (str(error) or type(error).__name__)[:200]
