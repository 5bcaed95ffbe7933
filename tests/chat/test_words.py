from __future__ import annotations

from swarm.chat.words import clipped, printable, width


def test_nothing_commands_the_terminal() -> None:
    hostile = "a\x1b]0;title\x07b\x1b[2Jc\r\x9b31md\x7f\te\n"
    shown = printable(hostile)
    assert not [c for c in shown if (ord(c) < 32 and c not in "\n\t") or 0x7F <= ord(c) < 0xA0]
    assert shown.startswith("a␛]0;title␇b␛[2Jc␍") and shown.endswith("\te\n")


def test_columns_are_counted_as_terminals_do() -> None:
    assert (width("abc"), width("日本"), width("e\N{COMBINING ACUTE ACCENT}")) == (3, 4, 1)
    assert clipped("日本語", 5) == "日本…" and width(clipped("日本語" * 9, 5)) <= 5
    assert clipped("abc", 3) == "abc" and clipped("abcd", 3) == "ab…" and clipped("abcd", 0) == ""
