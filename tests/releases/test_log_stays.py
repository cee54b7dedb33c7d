from __future__ import annotations

from nivesh_lib.releases.gates import unreachable
from nivesh_lib.releases.log import stays


def entry(day, kind, version, **more):
    return {"kind": kind, "version": version, "timestamp": f"2026-12-0{day}", **more}


def promotion(day, version, stage):
    return entry(day, "promotion", version, stage=stage, override="", archive_replaced=False)


def test_each_version_is_in_one_stage_after_the_other():
    found = stays(
        [
            entry(1, "release", "1.0.0"),
            promotion(2, "1.0.0", "production"),
            entry(3, "release", "1.1.0"),
            promotion(4, "1.1.0", "staging"),
            promotion(5, "1.1.0", "production"),
            entry(6, "rollback", "1.0.0", leaves="1.1.0"),
        ]
    )
    by_version: dict[str, list[tuple[str, str, str]]] = {}
    for stay in found:
        where = stay["stage"], stay["start"][-1], stay["end"][-1:]
        by_version.setdefault(stay["version"], []).append(where)
    assert by_version == {
        "1.0.0": [
            ("Development", "1", "2"),
            ("Production", "2", "5"),
            ("Staging", "5", "6"),
            ("Production", "6", ""),
        ],
        "1.1.0": [
            ("Development", "3", "4"),
            ("Staging", "4", "5"),
            ("Production", "5", "6"),
            ("Archived", "6", ""),
        ],
    }


def test_no_entries_are_no_stays():
    assert stays([]) == []


def test_what_so_few_rows_cannot_show_is_said_with_how_many_could():
    assert unreachable(0.99, 300) == (
        "Even 300 right of 300 leave the lower end at 0.987; 381 rows could show it."
    )
    assert unreachable(0.99, 381) == "" == unreachable(0.8, 300)
