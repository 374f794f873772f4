"""New tweets against the labelled ones: other word pieces are warned of, chance is not."""

import random
from dataclasses import replace

from conftest import INVENTED
from transformers import AutoTokenizer

from smm4h.cli import predict
from smm4h.inference.new_tweets.profile import (
    TweetProfile,
    WordPieces,
    histogram_of_lengths,
    histogram_of_shares,
    profile_of,
    vocabulary_of,
)
from smm4h.inference.new_tweets.reference import Reference

KNOWN = ["my", "son", "was", "with", "the", "baby", "and", "is", "born", "today", "again"]
LETTERS = "абвгдежзиклмнопрстуфхцчшы"
PIECES = "of a tweet's word pieces are unknown to encoder or parts of words"


def cyrillic(rng: random.Random, n_words: int = 12) -> str:
    return " ".join("".join(rng.choices(LETTERS, k=rng.randint(2, 8))) for _ in range(n_words))


def latin(rng: random.Random, n_words: int = 12) -> str:
    """Return a tweet of known words, of which each may be one that the tokenizer cuts into pieces."""
    return " ".join(rng.choice(KNOWN) if rng.random() < 0.7 else f"x{rng.randrange(1000)}q" for _ in range(n_words))


def test_tweets_of_another_script_are_warned_of_by_the_command(tuned_job, tmp_path, call):
    lines = (INVENTED / "task5_test_participant.tsv").read_text().splitlines()
    rng, n_cells = random.Random(3), len(lines[0].split("\t"))
    position = lines[0].split("\t").index("text")
    rows = [["1"] * n_cells for _ in range(60)]
    for number, row in enumerate(rows):
        row[0], row[position] = str(1000 + number), cyrillic(rng)
    (tmp_path / "new.tsv").write_text("\n".join([lines[0], *map("\t".join, rows)]) + "\n", encoding="utf-8")
    result = call(predict.main, tuned_job.folder, tmp_path / "new.tsv", "--output", tmp_path / "o.tsv", "--use_cpu")
    assert result.code == 0, result.err
    assert "these tweets are not like the labelled ones" in result.err
    assert PIECES in " ".join(result.err.split())


def test_no_draw_of_twenty_of_the_same_source_is_warned_of_and_every_one_of_another_script_is(tiny_encoder):
    tokenizers = {"encoder": WordPieces(AutoTokenizer.from_pretrained(tiny_encoder))}
    rng = random.Random(1)
    labelled = profile_of([latin(rng) for _ in range(400)], tokenizers=tokenizers)
    reference = Reference(labelled, None, tokenizers)
    for _ in range(20):
        assert reference.notices(reference.profile([latin(rng) for _ in range(200)], [])) == []
        (notice,) = reference.notices(reference.profile([cyrillic(rng) for _ in range(30)], []))
        assert PIECES in notice


def test_expected_counts_of_one_label_a_tweet_add_up():
    labelled = TweetProfile(900, {"no": 259, "effect": 206, "suspected": 435}, histogram_of_lengths([]))
    for n_tweets in (1, 7, 120, 500):
        expected = Reference(labelled).expected(n_tweets)
        assert sum(expected.values()) == n_tweets
        assert all(abs(count - n_tweets * labelled.labels[label] / 900) < 1 for label, count in expected.items())
    of_several = TweetProfile(900, {"pain": 600, "sleep": 700}, histogram_of_lengths([]))
    assert Reference(of_several).expected(9) == {"pain": 6, "sleep": 7}


def test_the_labelled_tweets_themselves_are_suspected():
    rng = random.Random(2)
    texts = [f"{latin(rng)} {cyrillic(rng, 4)}" for _ in range(300)]
    vocabulary, unknown = vocabulary_of(texts)
    reference = Reference(replace(profile_of(texts), words=histogram_of_shares(unknown)), vocabulary)
    (notice,) = reference.notices(reference.profile(texts, []))
    assert "are these the labelled tweets themselves?" in notice
    assert reference.notices(reference.profile([f"{latin(rng)} {cyrillic(rng, 4)}" for _ in range(300)], [])) == []
