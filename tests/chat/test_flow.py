from __future__ import annotations

import pyte
from hypothesis import given
from hypothesis import strategies as st

from swarm.chat.flow import Flow


def shown(pieces: list[str], columns: int) -> list[str]:
    """What a terminal makes of it."""
    screen = pyte.Screen(columns, 60)
    screen.set_mode(pyte.modes.LNM)  # a line end begins a line, as the system's terminal driver has it
    stream, flow = pyte.Stream(screen), Flow()
    for piece in pieces:
        stream.feed(flow.add(piece, columns))
    assert screen.cursor.x == flow.column
    return [line.rstrip() for line in screen.display]


def test_a_word_that_grows_over_the_end_moves_to_the_next_line() -> None:
    assert shown(["a light", "ho", "use ", "keep", "er's parrot"], 14)[:4] == ["a lighthouse", "keeper's", "parrot", ""]


def test_a_word_longer_than_a_line_is_broken() -> None:
    assert shown(["it is ", "unbreak", "ablelong"], 8)[:4] == ["it is", "unbreak", "ablelon", "g"]


def test_wide_letters_break_anywhere_and_lines_of_the_text_stay() -> None:
    lines = [line.replace(" ", "") for line in shown(["日本語日", "本\nx\n\ty"], 8)]
    assert lines[:5] == ["日本語", "日本", "x", "", "y"]  # eight columns from a tab on are more than there are


@given(pieces=st.lists(st.text(alphabet="ab c\n.", max_size=9), max_size=30), columns=st.integers(3, 20))
def test_whatever_comes_nothing_is_lost_and_no_line_is_too_long(pieces: list[str], columns: int) -> None:
    lines = shown(pieces, columns)
    text = "".join(pieces)
    if text.count("\n") + len(text) // max(1, columns // 2) < 50:
        assert "".join("".join(lines).split()) == "".join(text.split())
    assert all(len(line) < columns for line in lines)
