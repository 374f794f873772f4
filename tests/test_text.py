"""Cleaning: the paper's three steps, the code's others, and tweets of every kind."""

import itertools
import random

import pytest

from smm4h.data.duplicates import normalized_text
from smm4h.models.cleaning import PAPER_STEPS, STEPS, clean


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("Look @Ann_B! https://t.co/AbC done", "look @user! done"),
        ("MY SON’s surgery", "my son’s surgery"),
        ("https://t.co/AbC", ""),
        ("", ""),
        ("so 😢😢 @a @b", "so 😢😢 @user @user"),
        ("Awww.so cute", "awww.so cute"),
        ("see www.nih.gov.", "see"),
        ("mail a@b.com", "mail a@b.com"),
        ("مرحبا @سارة 👶", "مرحبا @user 👶"),
        ("a &amp; b", "a &amp; b"),
    ],
)
def test_the_papers_three_steps(text, cleaned):
    assert clean(text, PAPER_STEPS) == cleaned


@pytest.mark.parametrize(
    ("step", "text", "cleaned"),
    [
        ("entities", "a &amp;lt; b &#128118;", "a < b 👶"),
        ("ascii", "naïve café’s 👶 …", "naive cafe's"),
        ("contractions", "I'm sure it won't and they can’t", "I am sure it will not and they can not"),
        ("long_words", "WorldDownSyndromeDayAwareness2020Now", "World Down Syndrome Day Awareness 2020 Now"),
        ("long_words", "a" * 70, f"{'a' * 30} {'a' * 30} {'a' * 10}"),
    ],
)
def test_the_other_steps(step, text, cleaned):
    assert clean(text, [step]) == cleaned


def test_without_steps_not_even_a_space_changes():
    assert clean("  Raw \t @A ", []) == "  Raw \t @A "


def test_cleaning_twice_is_cleaning_once():
    rng = random.Random(1)
    pieces = [
        "&amp;",
        "amp;",
        "&",
        "#x68;",
        "＆",
        "http",
        "s://",
        "www.",
        "@",
        "Ann",
        "can't",
        "’",
        "İ",
        "ﬁ",
        "é",
        "😢",
        " ",
    ]
    choices = [c for n in (1, 2, 3, len(STEPS)) for c in itertools.combinations(STEPS, n)]
    for _ in range(3000):
        text = "".join(rng.choices([*pieces, "x" * 20], k=rng.randint(1, 9)))
        steps = rng.choice(choices)
        make_once = clean(text, steps)
        assert clean(make_once, steps) == make_once, (text, steps)


def test_near_twins_share_their_key_and_others_do_not():
    assert (
        normalized_text("Big NEWS @ann  http://t.co/a")
        == normalized_text("big news")
        == normalized_text("@bob big\tnews")
    )
    assert normalized_text("a &amp; b") == normalized_text("A & B")
    assert normalized_text("big news") != normalized_text("big new")
