"""Tables of the terminal: in a narrow one nothing is cut."""

import io

from rich.console import Console

from smm4h.utils.console import PipedConsole, make_console, print_table

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


def test_a_terminal_shows_whole_words_and_a_file_whole_lines():
    path = "/" + "a_folder/" * 12
    text = (
        f"Expected f1 of the final vote on 500 test tweets: 0.566, between 0.432 and 0.692, see {path} and more of it"
    )
    shown = {}
    for width, is_terminal in ((80, True), (30, True), (80, False)):
        stream = io.StringIO()
        to = PipedConsole(file=stream, width=width, force_terminal=is_terminal, color_system=None, highlight=False)
        to.print(text, markup=False, soft_wrap=True)
        to.print_command(text)
        shown[width, is_terminal] = stream.getvalue().splitlines()
        assert shown[width, is_terminal][-1] == text
    assert shown[80, False] == [text, text]
    for width in (80, 30):
        *lines, _ = shown[width, True]
        assert " ".join(lines).split() == text.split()
        assert len(lines) > 2
        assert max(len(line) for line in lines if path not in line) <= width


def test_a_pipe_is_no_terminal_where_colours_are_forced(monkeypatch, capfd):
    """Notebooks set FORCE_COLOR for the commands that they call; frames of a progress bar would fill their cells."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert not make_console().is_terminal
    assert not make_console(stderr=True).is_terminal
