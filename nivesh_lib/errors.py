"""The exceptions that callers are meant to catch.

::

    NiveshError                 everything below; the command line prints it and exits with 1
    ├── DataError               a file, row or version that cannot be used
    │   ├── ChecksumError       a data file is not the one that was published
    │   └── HoldoutError        held-out rows were asked for, and stay closed
    ├── ModelError              a model directory that is incomplete, altered or unsafe
    │   └── NoModelError        none was named, and no run has made one
    ├── ReleaseError            a release, promotion or rollback that is refused
    ├── SpecError               pipeline.toml, a parameter or a step name is wrong
    ├── StepFailed              a notebook stopped; carries step, cell, cause and next command
    └── MissingExtra            an optional dependency is not installed

A wrong argument to a function is a plain ``ValueError``.
"""

from __future__ import annotations


class NiveshError(Exception):
    """Base class. The message names the problem, its place, and the next step."""


class DataError(NiveshError):
    """A file, row or data version that cannot be used as it is."""


class ChecksumError(DataError):
    """A data file differs from the one that its manifest describes."""


class HoldoutError(DataError):
    """Held-out rows were asked for outside a release, or without a complete ledger entry."""


class ModelError(NiveshError):
    """A model directory is incomplete, altered, unsafe or of an unknown kind."""


class NoModelError(ModelError):
    """No model was named, and there is none to take by default."""


class ReleaseError(NiveshError):
    """A release, a promotion or a rollback is refused, or a package is not what was released."""


class SpecError(NiveshError):
    """A wrong pipeline.toml, parameter or step name."""


class StepFailed(NiveshError):
    """A notebook did not run to its end."""


class MissingExtra(NiveshError):
    """An optional dependency is not installed."""
