"""Sentences about one tweet are in the singular."""

import ast
from pathlib import Path

import pytest
from conftest import ROOT

from smm4h.data.readers.tables import Finding
from smm4h.utils.wording import are, counted, of_one


@pytest.mark.parametrize(
    ("what", "one"),
    [
        ("tweets have no text", "tweet has no text"),
        (
            "ids were wrapped in quotes, or protected; they were unwrapped",
            "id was wrapped in quotes, or protected; they",
        ),
        ("tweets were wrapped in quotes; they were unwrapped", "tweet was wrapped in quotes; it was unwrapped"),
        ("rows train and are never held out (1: 3)", "row trains and is never held out (1: 3)"),
        ("rows left out, whose label is none of 1, 2", "row left out, whose label is none of 1, 2"),
        ("tweets share their id with another one; all are kept", "tweet shares its id with another one; all are kept"),
        ("rows are twins of test tweets; no run trains on them", "row is a twin of test tweets; no run trains on them"),
        ("tweets are errors of a spreadsheet; compare them", "tweet is an error of a spreadsheet; compare it"),
        ("word pieces (1%) are unknown", "word piece (1%) is unknown"),
    ],
)
def test_what_is_said_of_one(what, one):
    assert of_one(what).startswith(one[:40])


def test_a_finding_of_one_is_in_the_singular_and_stored_as_it_was():
    finding = Finding("a.tsv", 1, "ids were repeated")
    assert str(finding) == "a.tsv: 1 id was repeated"
    assert finding.what == "ids were repeated"
    assert str(Finding("a.tsv", 2, "ids were repeated")) == "a.tsv: 2 ids were repeated"


def sentences_of_findings() -> set[str]:
    """Return all texts in the project's code that are given to a counted finding."""
    texts = set()
    for path in Path(ROOT / "smm4h" / "data").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Finding" and len(node.args) == 3:
                texts |= {part.value for part in ast.walk(node.args[2]) if isinstance(part, ast.Constant)}
    return {text for text in texts if isinstance(text, str) and " " in text}


def test_no_finding_of_one_keeps_a_plural_before_its_first_comma():
    sentences = sentences_of_findings()
    assert "tweets have no label" in sentences
    for sentence in (one for one in sentences if one[0].isalpha()):  # others are pieces of one
        first = of_one(sentence).partition(";")[0].partition(",")[0].partition("(")[0].split()
        assert not {"are", "were", "have"}.intersection(first), sentence


def test_numbers_and_nouns_agree():
    assert [counted(1, "run"), counted(0, "run"), counted(12, "run")] == ["1 run", "0 runs", "12 runs"]
    assert [are(1), are(2)] == ["is", "are"]
