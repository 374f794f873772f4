"""Tables of the terminal: in a narrow one nothing is cut."""

import io

from rich.console import Console

from smm4h.utils.console import make_console, print_table

SCORES = ["95 %", "precision", "recall"]
GROUPS = [[""], ["out of fold f1", *SCORES], ["test f1", *SCORES]]
ROWS = [
    ["last2-pooler-clean-pseudo *", *["0.843", "0.780-0.897", "0.951", "0.757"] * 2],
    ["final vote", *["0.878", "0.821-0.926", "0.965", "0.806"] * 2],
]


def printed(width: int, groups=GROUPS, rows=ROWS) -> list[str]:
    stream = io.StringIO()
    print_table("the title", groups, rows, to=Console(file=stream, width=width))
    return stream.getvalue().splitlines()


def test_a_wide_terminal_shows_one_table_and_80_columns_one_for_each_part():
    assert len(printed(140)) == 4
    title, *tables = printed(80)
    assert title == "the title"
    blank = tables.index("")
    for table, header in ((tables[:blank], GROUPS[1]), (tables[blank + 1 :], GROUPS[2])):
        assert " ".join(table[0].split()) == " ".join(header)
        assert [" ".join(line.split()) for line in table[1:]] == [" ".join(row[:5]) for row in ROWS]
        assert max(map(len, table)) <= 80


def test_a_part_wider_than_the_terminal_goes_on_below_and_long_names_take_two_lines():
    lines = printed(50, rows=[["n" * 40, *ROWS[0][1:]], ROWS[1]])
    assert max(map(len, lines)) <= 50
    text = " ".join(" ".join(lines).split())
    for cell in (*ROWS[0][1:5], *ROWS[1][1:5]):
        assert text.count(cell) == 2  # once a part
    assert "…" not in text
    assert text.count("n" * 25) >= 1


def test_a_pipe_is_no_terminal_where_colours_are_forced(monkeypatch, capfd):
    """Notebooks set FORCE_COLOR for the commands that they call; frames of a progress bar would fill their cells."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert not make_console().is_terminal
    assert not make_console(stderr=True).is_terminal
