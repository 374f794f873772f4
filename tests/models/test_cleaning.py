"""Cleaning: the paper's three steps, the other steps, and tweets of every kind."""

import builtins
import itertools
import random

import pytest
from conftest import INVENTED
from transformers import BertweetTokenizer

from smm4h.models.cleaning import PAPER_STEPS, STEPS, MissingPackageError, clean, emoji_namer


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


# What the published normalizers make of tweets: the example in BERTweet's README, and tweets worked out by hand.
BERTWEET = [
    (
        "SC has first two presumptive cases of coronavirus, DHEC confirms "
        "https://postandcourier.com/health/covid19/sc-has-first-two-cases.html?utm_medium=social… via @postandcourier",
        "SC has first two presumptive cases of coronavirus , DHEC confirms HTTPURL ... via @USER",
    ),
    ("I’m sad 😢 @Ann's son can't", "I 'm sad :crying_face: @USER ' s son can't"),
    ("he cannot go, it's 5 p.m. now", "he can not go , it 's 5 p.m. now"),
    ("it didn't work &amp; www.nih.gov", "it did n't work & HTTPURL"),
    ("", ""),
]


@pytest.mark.parametrize(("text", "normalized"), BERTWEET)
def test_bertweet_reads_what_it_was_pretrained_on(text, normalized):
    pytest.importorskip("emoji")
    assert clean(text, ["bertweet"]) == normalized


def test_the_bertweet_step_is_the_normalization_of_its_tokenizer(tmp_path):
    """On invented tweets, and on pieces that its rules are about in any order."""
    pytest.importorskip("emoji")
    (tmp_path / "vocab.txt").write_text("a 1\n")
    (tmp_path / "bpe.codes").write_text("#version: 0.2\n")
    published = BertweetTokenizer(str(tmp_path / "vocab.txt"), str(tmp_path / "bpe.codes"), normalization=True)
    pieces = ["&amp;", "&#8217;", "&hellip;", "’", "…", "@Ann", "@", "http", "https://t.co/x", "www.x.org", " ", "😂"]
    pieces += [
        "👩‍⚕️",
        "cannot ",
        "can't ",
        "I'm ",
        "ain't ",
        "n't ",
        "n 't ",
        " p . m .",
        " a . m ",
        "5 p.m. ",
        "'s ",
        "\n",
    ]
    pieces += ["<3", ":-)", "é", "ａ", "555-123-4567", "it’s ", "....", "#tag"]
    rng = random.Random(1)
    texts = ["".join(rng.choices(pieces, k=rng.randint(1, 9))) for _ in range(2000)]
    texts += (INVENTED / "task5_test_participant.tsv").read_text().splitlines()[:300]
    assert [clean(text, ["bertweet"]) for text in texts] == [published.normalizeTweet(text) for text in texts]


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        ("@Ann_B: look https://t.co/x", "@user look http"),
        ("a lone @ stays, me@x.org too", "a lone @ stays, me@x.org too"),
        ("(@Ann) httpfoo  two spaces", "(@Ann) http  two spaces"),
        ("@a\n@b c", "@user c"),
        ("so 😢 &amp; cold", "so 😢 &amp; cold"),
    ],
)
def test_twitter_roberta_reads_what_it_was_pretrained_on(text, normalized):
    assert clean(text, ["twitter_roberta"]) == normalized


def test_a_normalizer_runs_once_after_the_steps_in_whatever_order_they_are_named():
    pytest.importorskip("emoji")
    assert clean("My @Ann &lt;3 😂", ["bertweet", "entities", "case"]) == "my @USER <3 :face_with_tears_of_joy:"


def test_without_the_package_emoji_the_bertweet_step_says_how_to_get_it(monkeypatch):
    find = builtins.__import__

    def without_emoji(name, *args, **kwargs):
        if name == "emoji":
            raise ImportError(name)
        return find(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_emoji)
    emoji_namer.cache_clear()
    with pytest.raises(MissingPackageError, match=r"pip install emoji==0\.6\.0"):
        clean("so 😢", ["bertweet"])
    monkeypatch.undo()
    emoji_namer.cache_clear()
