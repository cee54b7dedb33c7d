"""The table of the torture run, and the promises that rest on it."""

from __future__ import annotations

import re

import pytest

from tests.conftest import REPOSITORY
from tests.torture.table import BEGIN, COUNTS, KINDS, Row, markdown, put_into, table_of

PAGE = REPOSITORY / "docs" / "reliability.md"


def test_the_documented_run_tried_every_kind_and_found_nothing():
    rows = table_of(PAGE.read_text(encoding="utf-8"))
    if not rows:
        pytest.skip('no run is documented yet: make torture ARGS="--write"')
    assert [row["kind"] for row in rows] == list(KINDS.values())
    assert {row[column] for row in rows for column in COUNTS.values()} == {"0"}
    assert int(rows[0]["tried"].replace(",", "")) >= 1_000


def test_a_table_that_is_put_into_the_page_is_read_from_it(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    row = Row(KINDS["tiny"], tried=1_000, seconds=2.0)
    row.count("open", "a", "b")
    for _ in range(2):
        put_into(page, markdown([row], minutes=1.0))
    text = page.read_text(encoding="utf-8")
    (found,) = table_of(text)
    assert found["tried"] == "1,000" and found["runs left open"] == "2" and not row.sound
    assert text.count(BEGIN) == 1


@pytest.mark.parametrize("name", ["SECURITY.md", "docs/reliability.md"])
def test_the_links_of_the_page_lead_to_files(name):
    page = REPOSITORY / name
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8"))
    assert links and all((page.parent / link).exists() for link in links)
