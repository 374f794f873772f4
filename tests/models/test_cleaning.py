"""Cleaning: the paper's three steps, the other steps, and tweets of every kind."""

import itertools
import random

import pytest

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
    pieces = ["&amp;", "amp;", "&", "#x68;", "＆", "http", "s://", "www.", "@", "Ann", "can't", "’", "İ", "ﬁ", "é"]
    pieces += ["😢", " ", "x" * 20]
    choices = [c for n in (1, 2, 3, len(STEPS)) for c in itertools.combinations(STEPS, n)]
    for _ in range(3000):
        text = "".join(rng.choices(pieces, k=rng.randint(1, 9)))
        steps = rng.choice(choices)
        once = clean(text, steps)
        assert clean(once, steps) == once, (text, steps)
