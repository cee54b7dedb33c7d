"""What every page that we write must keep to, and a browser to open one in."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

# Each would change the page's <html> element if it ran.
HOSTILE = [
    "</script><img src=x onerror=document.documentElement.id=1>",
    "</script><svg/onload=document.documentElement.id=2>",
    "<script>document.documentElement.id=3</script>",
    "<!--<script>",
    "<img src=x onerror=document.documentElement.id=4>",
    "[link](javascript:document.documentElement.id=5)",
    "![image](http://evil.example/image.png)",
    '<a href="http://evil.example">link</a>',
    "<b>bold</b> & &lt;i&gt;",
]


class Elements(HTMLParser):
    """The elements of a page with their attributes, in order, and its inline scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.cdata_elem == "script":
            self.scripts[-1] += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def check_page(page: str) -> Elements:
    """Assert that the policy comes first and names all scripts, and that nothing is loaded."""
    elements = Elements(page)
    names = [name for name, _ in elements.found]
    policy = elements.found[names.index("head") + 1][1]
    assert policy["http-equiv"] == "Content-Security-Policy"
    rules = dict(rule.split(" ", 1) for rule in str(policy["content"]).split("; "))
    assert (rules["default-src"], rules["base-uri"], rules["form-action"]) == ("'none'",) * 3
    digests = [hashlib.sha256(script.encode()).digest() for script in elements.scripts]
    allowed = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    assert rules["script-src"] == (allowed or "'none'")
    for tag, attributes in elements.found:
        assert not [name for name in attributes if name.startswith("on")]
        assert tag not in ("iframe", "object", "embed", "base", "form", "link")
        assert (attributes.get("src") or "data:image/").startswith("data:image/")
        assert not re.match(r"\W*(javascript|data):", attributes.get("href") or "")
    return elements


def opened(page: Path) -> str:
    """Return a page as headless Chromium has it after its scripts ran, or skip the test."""
    browsers = ("chromium", "chromium-browser", "google-chrome", "chrome")
    browser = next(filter(None, map(shutil.which, browsers)), None)
    if browser is None:
        pytest.skip("no chromium or chrome to open a page in")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    flags += [f"--user-data-dir={page.parent / 'profile'}", "--virtual-time-budget=5000"]
    command = [browser, *flags, "--dump-dom", page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
