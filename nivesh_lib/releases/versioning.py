"""The version of a release, derived from what differs from the release before (semver.org)."""

from __future__ import annotations

import semver

from nivesh_lib.errors import ReleaseError
from nivesh_lib.records.release import Release
from nivesh_lib.wording import joined

FIRST = "1.0.0"


def derived(new: Release, last: Release | None, lost: str = "") -> tuple[str, list[str]]:
    """Return the version of a release and a sentence for each reason.

    Labels removed or renamed, or another response, break who reads the answers: MAJOR. More
    labels, other data, another kind of model or backbone: MINOR. The rest: PATCH.

    Parameters
    ----------
    last
        The release with the highest version before; None for the first one.
    lost
        The highest version, where its package is not here: what changed since is not known, and
        MINOR is taken.
    """
    if last is None and lost:
        following = str(semver.Version.parse(lost).bump_minor())
        why = f"the package of {lost} is not on this machine, so what changed since is not known"
        return following, [f"{following}: {why}."]
    if last is None:
        return FIRST, [f"{FIRST}: the first release of {new.name}."]
    number = semver.Version.parse(last.version)
    if reasons := _breaking(new, last):
        return str(number.bump_major()), [f"MAJOR: {one}." for one in reasons]
    if reasons := _extending(new, last):
        return str(number.bump_minor()), [f"MINOR: {one}." for one in reasons]
    return str(number.bump_patch()), [
        "PATCH: labels, response, data and kind of model are those of the release before."
    ]


def checked(wanted: str, least: str) -> str:
    """Return a version that was typed, if it is one and no lower than the derived one.

    Raises
    ------
    ReleaseError
        It is no version, or a lower one.
    """
    text = wanted.removeprefix("v")
    if not semver.Version.is_valid(text):
        raise ReleaseError(f"--version {wanted}: is no MAJOR.MINOR.PATCH such as {least}")
    if semver.Version.parse(text) < least:
        raise ReleaseError(
            f"--version {wanted}: is lower than {least}, which follows from what changed. Leave "
            "it out, or choose a higher one"
        )
    return text


def _breaking(new: Release, last: Release) -> list[str]:
    gone = [label for label in last.labels if label not in new.labels]
    reasons = [f"the labels {joined(gone)} are gone or renamed"] if gone else []
    if lost := [name for name in last.response if name not in new.response]:
        reasons.append(f"the response has no {joined(lost)} any more")
    return reasons


def _extending(new: Release, last: Release) -> list[str]:
    more = [label for label in new.labels if label not in last.labels]
    reasons = [f"the labels {joined(more)} are new"] if more else []
    if new.dataset != last.dataset:
        reasons.append(f"it was trained on {new.dataset} in place of {last.dataset}")
    if new.algorithm != last.algorithm:
        reasons.append(f"it is {new.algorithm} in place of {last.algorithm}")
    if added := [name for name in new.response if name not in last.response]:
        reasons.append(f"the response has {joined(added)} besides")
    return reasons
