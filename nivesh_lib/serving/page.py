"""The page at ``/``: one file without anything from elsewhere, and the policy that keeps it so."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

HTML = (Path(__file__).parent / "templates" / "page.html").read_bytes()


def _hashes(tag: bytes) -> str:
    """Return the sources of a policy that allow the page's own inline blocks of a tag."""
    blocks = re.findall(rb"<%b>(.*?)</%b>" % (tag, tag), HTML, re.S)
    digests = (base64.b64encode(hashlib.sha256(one).digest()).decode() for one in blocks)
    return " ".join(f"'sha256-{digest}'" for digest in digests)


HEADERS = {
    "content-security-policy": (
        f"default-src 'none'; script-src {_hashes(b'script')}; style-src {_hashes(b'style')}; "
        "img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'; require-trusted-types-for 'script'"  # no text becomes markup
    )
}
