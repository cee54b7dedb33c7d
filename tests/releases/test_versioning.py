"""Versions that follow from what differs, and typed ones."""

from __future__ import annotations

import pytest

from nivesh_lib.errors import ReleaseError
from nivesh_lib.releases.versioning import checked, derived
from tests.releases.records import release


def after(**changed):
    return derived(release(**changed), release(version="1.4.2"))


def test_the_first_release_is_the_first_version():
    assert derived(release(), None)[0] == "1.0.0"


def test_where_the_package_before_is_lost_the_version_is_the_next_minor():
    found, reasons = derived(release(), None, "1.4.2")
    assert found == "1.5.0" and "1.4.2 is not on this machine" in reasons[0]


@pytest.mark.parametrize(
    ("changed", "version", "said"),
    [
        ({"labels": ["tax", "rent"]}, "2.0.0", "MAJOR: the labels loan are gone"),
        ({"labels": ["tax", "rent", "debt"]}, "2.0.0", "MAJOR: the labels loan are gone"),
        ({"response": ["intent"]}, "2.0.0", "MAJOR: the response has no confidence any more"),
        ({"labels": ["tax", "rent", "loan", "debt"]}, "1.5.0", "MINOR: the labels debt are new"),
        ({"dataset": "intents@1.1.0"}, "1.5.0", "MINOR: it was trained on intents@1.1.0 in place"),
        ({"algorithm": "lstm"}, "1.5.0", "MINOR: it is lstm in place of tfidf"),
        ({"response": ["intent", "confidence", "x"]}, "1.5.0", "MINOR: the response has x besides"),
        ({"digest": "other"}, "1.4.3", "PATCH: labels, response, data and kind"),
    ],
)
def test_the_version_follows_from_what_changed(changed, version, said):
    found, reasons = after(**changed)
    assert found == version and reasons[0].startswith(said)


def test_every_reason_of_the_part_is_said():
    assert len(after(dataset="intents@1.1.0", algorithm="lstm")[1]) == 2


def test_a_higher_version_may_be_typed_and_a_lower_one_not():
    assert checked("v1.6.0", "1.5.0") == "1.6.0" and checked("1.5.0", "1.5.0") == "1.5.0"
    with pytest.raises(ReleaseError, match=r"1\.4\.9: is lower than 1\.5\.0"):
        checked("1.4.9", "1.5.0")
    with pytest.raises(ReleaseError, match="is no MAJOR"):
        checked("latest", "1.5.0")
