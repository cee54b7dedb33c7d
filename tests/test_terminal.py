from __future__ import annotations

import pytest

from nivesh_lib.terminal import listed, printable, printable_lines


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("tax_planning", "tax_planning"),
        ("\x1b[2J\x1b]0;title\x07", "\\x1b[2J\\x1b]0;title\\x07"),
        ("one\nerror: two\r", "one\\nerror: two\\r"),
        ("\x9b31m", "\\x9b31m"),
        ("half \ud83d", "half \\ud83d"),
        ("\u202etxet\u200b\u2028", "\\u202etxet\\u200b\\u2028"),
        ("क्षेत्र बचत \u200d₹👍", "क्षेत्र बचत \u200d₹👍"),
    ],
)
def test_only_what_commands_a_terminal_or_hides_is_escaped(text, shown):
    assert printable(text) == shown


def test_a_message_keeps_its_line_breaks_and_a_list_has_none():
    assert printable_lines("a\n  b\x07") == "a\n  b\\x07"
    assert listed(["a", "b\nc"]) == "a, b\\nc"
    assert listed([]) == "none"
