"""The report in a real browser: the committed example, and own data with few and many labels."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

import pytest

from nivesh_lib.data.publishing import publish
from nivesh_lib.paths import reports_dir
from tests.conftest import REPOSITORY
from tests.pipeline.conftest import copy_notebooks

EXAMPLE = reports_dir() / "example" / "index.html"
LARGEST = 9_000  # pixels high, everything folded, at 1,280 wide


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium to open a page in")
    with api.sync_playwright() as play:
        opened = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def opened(browser):
    """A function that opens a file; its page has what went wrong and what was loaded."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.wrong, page.loaded = [], []
    page.on("console", lambda one: page.wrong.append(one.text) if one.type == "error" else None)
    page.on("pageerror", lambda error: page.wrong.append(str(error)))
    page.on("request", lambda one: page.loaded.append(one.url))

    def open_(file):
        page.goto(file.as_uri())
        return page

    yield open_
    page.close()


def check(page, file):
    """Assert what must hold for the report of any run."""
    assert page.wrong == [] and {url for url in page.loaded if url[:5] != "data:"} == {
        file.as_uri()
    }
    assert page.locator(".tile").count() == 7
    assert page.evaluate("document.documentElement.scrollHeight") <= LARGEST
    printed = page.pdf(prefer_css_page_size=True)
    assert int(re.findall(rb"/Count (\d+)", printed)[-1]) <= 4
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_example_opens_alone_fits_and_prints_on_four_pages(opened):
    check(opened(EXAMPLE), EXAMPLE)


def test_the_first_screen_answers_every_question(opened):
    page = opened(EXAMPLE)
    last = page.locator(".tile").last.bounding_box()
    assert last["y"] + last["height"] <= 900
    assert "release" in page.locator(".tile").first.inner_text()


def test_the_threshold_moves_what_is_answered(opened):
    page = opened(EXAMPLE)
    before = [page.locator(f"#{name}").inner_text() for name in ("at", "answered", "handed")]
    page.locator("#line").fill("99")
    after = [page.locator(f"#{name}").inner_text() for name in ("at", "answered", "handed")]
    assert after[0] == "0.99" and all(
        one != other for one, other in zip(before, after, strict=True)
    )
    assert int(after[1]) + int(after[2]) == 100
    assert page.locator("#crossing li").count() == 4


def test_a_link_of_the_first_screen_leads_to_its_finding(opened):
    page = opened(EXAMPLE)
    for link in page.locator(".tile a").all():
        target = page.locator(f"[id='{link.get_attribute('href')[1:]}']")
        assert target.count() == 1


FEW = ("Returns, refunds", "ACCOUNT and login", "शिकायत")
MANY = tuple(f"{name} {n}" for n in range(50) for name in ("Part, No.", "UPPER-case/", "a" * 60))


@pytest.mark.slow
@pytest.mark.parametrize(("labels", "rows"), [(FEW, 120), (MANY, 1_200)], ids=["few", "many"])
def test_data_of_someone_s_own_without_segments_or_dates_fits_too(
    opened, home, store, make_rows, labels, rows
):
    copy_notebooks(home)
    publish(make_rows(rows, labels=labels), "mine", "1.0.0", description="x")
    steps = ["--only", "01", "--only", "03", "--only", "08"]
    command = [sys.executable, "-m", "nivesh_lib", "run", "--profile", "smoke", *steps]
    subprocess.run([*command, "--dataset", "mine@1.0.0"], cwd=REPOSITORY, check=True, timeout=300)
    (page,) = (home / "reports" / "runs").glob("*/index.html")
    check(opened(page), page)
