from __future__ import annotations

import re

import pytest
from nbconvert.filters.markdown_mistune import markdown2html_mistune

from nivesh_lib.reporting.markup import cleaned, content_policy, plain_links
from tests.reporting.pages import HOSTILE

PNG = "data:image/png;base64,aGk="


@pytest.mark.parametrize(
    "kept",
    [
        '<a href="02_baseline.html#answer">next</a>',
        '<a href="../index.html">all</a>',
        '<a href="https://docs.example/a:b">docs</a>',
        f'<img alt="bars" src="{PNG}" width="30">',
        '<table class="dataframe"><thead><tr style="text-align:right;"><th colspan="2">a</th></tr>'
        "</thead><tbody><tr><td>1</td></tr></tbody></table>",
        '<pre><span class="ansi-red-fg">a &lt; b</span>\n  $x^2$</pre>',
    ],
)
def test_text_tables_figures_and_links_between_pages_stay(kept):
    assert cleaned(kept) == kept


@pytest.mark.parametrize(
    ("markup", "left"),
    [
        ('<a href="javascript:x()">a</a>', "<a>a</a>"),
        ('<a href="java\tscript&colon;x()">a</a>', "<a>a</a>"),
        ('<a href="javascript&#58x()">a</a>', "<a>a</a>"),
        ('<a href="data&colon;text/html,x">a</a>', "<a>a</a>"),
        ('<img src="http://evil.example/i.png" alt="a">', '<img alt="a">'),
        ('<img src="//evil.example/i.png">', "<img>"),
        ('<img src=x onerror="x()">', "<img>"),
        ("<svg onload=x()><script>x()</script></svg>", ""),
        ('<style>@import "http://evil.example"</style>', ""),
        ('<p style="background:url(http://evil.example)">a</p>', '<p style="">a</p>'),
        ('<iframe src="data:text/html,x"></iframe><form action="x"><input></form>', ""),
        ('<meta http-equiv="refresh" content="0"><base href="http://evil.example">', ""),
        ('<div class="output"><a href="../index.html">a</a></div>', '<div class="output">a</div>'),
    ],
)
def test_what_runs_loads_or_leads_elsewhere_goes(markup, left):
    assert cleaned(markup).strip() == left


@pytest.mark.parametrize("text", [*HOSTILE, r"[x\](javascript:x)", "![x](attachment:x)", "[x]: y"])
def test_links_images_and_html_in_markdown_are_text(text):
    shown = markdown2html_mistune(plain_links(f"**3** rows of {text} [0.1, 0.2]"))
    assert shown.startswith("<p><strong>3</strong> rows of ") and "[0.1, 0.2]" in shown
    # An address is linked as such; in outputs of cells `cleaned` removes that.
    assert not re.search(r'<(img|script|svg|b>|a href="(?!http))', shown)


def test_a_policy_names_scripts_by_their_digest_and_allows_nothing_from_elsewhere():
    assert "script-src 'none'; style-src 'unsafe-inline'; img-src data:;" in content_policy()
    policy = content_policy(["", "x()"], img="data: blob:")
    assert "script-src 'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=' 'sha256-" in policy
    assert "img-src data: blob:;" in policy and policy.startswith("default-src 'none'")
