"""The markup of pages: what of it is kept, and what a browser may load and run.

Labels, segments and texts come from users' files and may be written as HTML or Markdown.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import html
import re
from collections.abc import Iterable
from typing import Any

# Beside those that bleach allows on its own.
_TEXT = ("br", "del", "div", "hr", "kbd", "p", "pre", "s", "small", "span", "sub", "sup", "u")
_BLOCKS = ("dd", "details", "dl", "dt", "figcaption", "figure", "img", "summary")
_HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")
_TABLES = ("caption", "table", "tbody", "td", "tfoot", "th", "thead", "tr")
_ATTRIBUTES = ("border", "class", "colspan", "id", "lang", "rowspan", "scope", "style", "title")
_OF_IMAGES = ("alt", "height", "width")
_LINK = re.compile(r"https?://|mailto:|#|[^:]*$")  # a page beside this one has no colon
_EMBEDDED = re.compile(r"data:image/(png|jpeg|gif|svg\+xml);base64,")  # scripts in it do not run


def content_policy(scripts: Iterable[str] = (), **sources: str) -> str:
    """Return a content security policy for a page that needs nothing but itself.

    Parameters
    ----------
    scripts : iterable of str
        The texts of the page's inline scripts, the only ones that may run.
    sources : str
        Further kinds of content, such as ``font="data:"``.
    """
    digests = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts]
    allowed = {
        "default": "'none'",
        "script": " ".join(f"'sha256-{digest}'" for digest in digests) or "'none'",
        "style": "'unsafe-inline'",
        "img": "data:",
        **sources,
    }
    kinds = "; ".join(f"{kind}-src {origin}" for kind, origin in allowed.items())
    return f"{kinds}; base-uri 'none'; form-action 'none'"


def plain_links(markdown: str) -> str:
    """Return Markdown in which HTML, links and images are shown as they are written."""
    # An entity is never syntax; a backslash could itself be escaped by one before it.
    return re.sub(r"\](?=[(\[:])", "&#93;", html.escape(markdown, quote=False))


def _is_allowed(tag: str, name: str, value: str) -> bool:
    if (tag, name) == ("a", "href"):
        return bool(_LINK.match(html.unescape(value)))
    if (tag, name) == ("img", "src"):
        return bool(_EMBEDDED.match(value))
    return name in _ATTRIBUTES or (tag == "img" and name in _OF_IMAGES)


@functools.cache
def _cleaner() -> Any:
    from bleach import ALLOWED_TAGS, Cleaner
    from bleach.css_sanitizer import CSSSanitizer

    return Cleaner(
        tags=ALLOWED_TAGS.union(_TEXT, _BLOCKS, _HEADINGS, _TABLES),
        attributes=_is_allowed,
        protocols=("http", "https", "mailto", "data"),  # of images only: see _is_allowed
        strip=True,
        css_sanitizer=CSSSanitizer(allowed_css_properties=["text-align"]),
    )


def cleaned(body: str) -> str:
    """Return the HTML of a notebook with only text, tables, embedded images and links.

    Links are kept in the notebook's own text and removed from outputs of cells, where they can
    only come from data.
    """
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(body, "html.parser")
    for element in soup(["script", "style"]):
        element.decompose()
    for output in soup(class_="output"):
        for link in output("a"):
            link.unwrap()
    return str(_cleaner().clean(str(soup)))
