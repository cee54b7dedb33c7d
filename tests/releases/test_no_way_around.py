"""Ways around the gates in the library, each of which ends at the release log."""

from __future__ import annotations

import json

import pytest

from nivesh_lib import paths
from nivesh_lib.errors import DataError, NiveshError, ReleaseError
from nivesh_lib.releases.log import read_log, writing
from nivesh_lib.releases.package import Package
from nivesh_lib.releases.promotion import archive, promote, transition_model_stage
from nivesh_lib.tracking.logger import open_logger
from nivesh_lib.tracking.registry import follow_log, register_model
from nivesh_lib.tracking.store import client
from tests.releases.world import commit

NAME = "intent_classifier"
WORSE = "1.0.1"  # the version that passes no gate against 1.0.0
MET = [{"name": "accuracy", "mark": "", "verdict": "met", "found": "", "why": ""}]


def serving() -> dict[str, str]:
    """Return alias -> MLflow's number of the version."""
    (found,) = client().search_registered_models(f"name = '{NAME}'")
    return {alias: str(number) for alias, number in found.aliases.items()}


@pytest.fixture
def unmoved(released):
    """The home; what is in the log and where the aliases point is the same afterwards."""
    log = paths.release_log().read_bytes()
    yield released
    assert paths.release_log().read_bytes() == log
    follow_log(NAME)
    assert serving() == {"staging": "1"}


def by_hand(**fields: object) -> None:
    """Append a promotion of the worse version to production, as `promote` would."""
    (entry,) = (e for e in read_log(NAME) if (e["kind"], e["version"]) == ("release", WORSE))
    kept = {key: entry[key] for key in ("name", "version", "digest", "who", "why")}
    line = {"stage": "production", "override": "", "gates": MET, "archive_replaced": False}
    with writing() as log:
        log.append("promotion", {**kept, **line, **fields})


@pytest.mark.parametrize("version", ["2", WORSE, f"v{WORSE}"])
def test_a_transition_goes_through_the_gates(unmoved, version):
    with pytest.raises(ReleaseError, match=r"1\.0\.1 stays out of production: "):
        transition_model_stage(NAME, version, "Production", archive_existing=True)


@pytest.mark.parametrize("forged", [False, True], ids=["untagged", "tagged as the release"])
def test_a_model_that_is_registered_by_hand_is_no_release(unmoved, forged):
    logger = open_logger("by_hand", {}, experiment="by_hand", mode="interactive", run="")
    address = logger.log_model(NAME, Package.of(NAME, WORSE).model)
    (entry,) = (e for e in read_log(NAME) if (e["kind"], e["version"]) == ("release", "1.0.0"))
    tags = {"stage": "Production"}
    if forged:
        tags |= {"nivesh.release": "1.0.0", "digest": entry["digest"]}
    found = register_model(NAME, address, tags)
    for alias in ("staging", "production"):
        client().set_registered_model_alias(NAME, alias, found.version)
    for change in (promote, lambda *to: transition_model_stage(NAME, *to)):
        with pytest.raises(ReleaseError, match="3: was never released"):
            change(str(found.version), "production")
    assert archive() == []


def test_a_model_that_is_registered_as_a_release_that_never_was_stops_every_change(released):
    logger = open_logger("by_hand", {}, experiment="by_hand", mode="interactive", run="")
    address = logger.log_model(NAME, Package.of(NAME, WORSE).model)
    register_model(NAME, address, {"nivesh.release": "9.0.0", "digest": "0" * 64})
    for version in ("9.0.0", "1.0.0"):
        with pytest.raises(NiveshError, match=r"has intent_classifier 9\.0\.0, which this release"):
            promote(version, "production", override="to be tried")
    assert serving() == {"staging": "1"}


def test_an_edited_log_is_not_followed(released):
    log = paths.release_log()
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join([lines[0], lines[1].replace('"staging"', '"production"'), *lines[2:]]))
    with pytest.raises(DataError, match="line 3: does not follow"):
        follow_log(NAME)
    assert serving() == {"staging": "1"}
    log.write_text("".join(lines[:2]))
    commit(released)
    log.write_text("".join([lines[0], lines[1].replace('"staging"', '"production"')]))
    with pytest.raises(DataError, match="line 2 of the committed file is edited or gone"):
        follow_log(NAME)
    assert serving() == {"staging": "1"}


@pytest.mark.parametrize("blanks", ["", " ", " \n\t", "\u00a0\u2003", "\u200b\u2060", "-"])
def test_an_override_of_blanks_is_none(unmoved, blanks):
    with pytest.raises(ReleaseError, match=r"1\.0\.1 stays out of production: "):
        promote(WORSE, "production", override=blanks)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"digest": "0" * 64}, "names another digest than was released"),
        ({"version": "9.0.0"}, "promotion of a version that was never released"),
        ({"gates": []}, "promotes a version without its gates"),
        ({"gates": [MET[0] | {"verdict": "not met"}]}, "a reason why one that is not met"),
    ],
)
def test_a_line_by_hand_that_does_not_fit_is_not_appended(unmoved, fields, message):
    with pytest.raises(DataError, match=f"no line is added that .*{message}"):
        by_hand(**fields)


def test_a_line_that_an_editor_appended_is_not_followed(released):
    entries = read_log(NAME)
    line = {key: value for key, value in entries[-1].items() if key != "id"}
    line |= {"kind": "promotion", "digest": "0" * 64, "previous": entries[-1]["id"]}
    line |= {"stage": "production", "override": "so", "gates": MET, "archive_replaced": False}
    with paths.release_log().open("a") as log:
        log.write(json.dumps(line) + "\n")
    with pytest.raises(DataError, match="line 4: names another digest than was released"):
        follow_log(NAME)
    assert serving() == {"staging": "1"}
