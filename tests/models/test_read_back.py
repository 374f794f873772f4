"""Training tweets cannot be read back from members that count words, as they can from an older version's."""

import re
from collections import Counter

import numpy as np
import pytest
from conftest import INVENTED
from read_back import read_back, trace_of_model, traces_of

from smm4h.data.readers.formats import read_tsv
from smm4h.models.word_models import SAFE, hash_of, impersonal, words_of
from smm4h.training.words.fitting import CLASSIFIERS, fit_counts, fit_safe_counts, fit_safe_net
from smm4h.training.words.safe_terms import NoSafeTerms, SafeTerms

TABLE = read_tsv(INVENTED / "task5_training.tsv", None)
USERS, TEXTS = list(TABLE.columns[1]), list(TABLE.columns[2])
LABELS = np.array([int(label) - 1 for label in TABLE.columns[3]])
AUTHORS = [hash_of(user) for user in USERS]
DICTIONARY = ["the", "my", "was", "with", "baby"]
FREQUENT = [word for word, _ in Counter(word for text in TEXTS for word in words_of(text)).most_common(100)]


def test_an_older_models_words_and_sentences_are_read_and_todays_are_not():
    told = {}
    for name, model in (
        ("old", fit_counts("tfidf-logistic", TEXTS, LABELS, 3, seed=1)),
        ("new", fit_safe_counts("tfidf-logistic", TEXTS, AUTHORS, LABELS, 3, seed=1)),
    ):
        told[name] = read_back(trace_of_model(model), DICTIONARY)
    repeated = {w for w in words_of(" ".join(TEXTS)) if w.isalpha() and sum(w in words_of(t) for t in TEXTS) > 1}
    windows = {" ".join(words[i : i + 5]) for words in map(words_of, TEXTS) for i in range(len(words) - 4)}
    assert len(told["old"].words & repeated) > 0.9 * len(repeated)
    assert len(told["old"].sentences & windows) > 0.15 * len(windows)
    assert told["new"].is_flooded
    assert told["new"].words <= set(DICTIONARY)
    assert not told["new"].sentences


def test_a_published_member_is_read_no_better(tuned_job, call, tmp_path):
    from smm4h.cli import publish

    result = call(publish.main, tuned_job.folder, "--to_folder", tmp_path / "published")
    assert result.code == 0, result.err
    assert "older version" not in result.err
    members = [path.name for path in (tmp_path / "published" / "members").iterdir() if path.name in ("counts", "svm")]
    assert members
    for member in members:
        found = read_back(traces_of(tmp_path / "published", member)[0], FREQUENT)
        assert found.is_flooded
        assert not found.sentences


RARE = {f"{a}{b}{b}{a}": f"{b}{a}{a}{b}" for a, b in ("жщ", "ωψ", "ђћ")}  # of letters of their own


def _told(swap: bool) -> list[str]:
    """Return tweets of which some have rare words, these ones or others of the same length."""
    rare = [*RARE.values()] if swap else [*RARE]
    return [f"{text} {rare[i % 3]}" if i < 3 * (SAFE - 1) else text for i, text in enumerate(TEXTS[:120])]


@pytest.mark.parametrize("name", [*CLASSIFIERS, "textcnn"])
def test_weights_do_not_depend_on_words_that_few_authors_have(name):
    """Byte for byte; and they do on a word that one author more has."""
    fit = fit_safe_counts if name in CLASSIFIERS else fit_safe_net

    def weights(texts: list[str]) -> list[bytes]:
        model = fit(name, texts, AUTHORS[: len(texts)], LABELS[: len(texts)], 3, seed=1)
        arrays = model.arrays if name in CLASSIFIERS else model.state_dict()
        return [np.asarray(array).tobytes() for array in arrays.values()]

    assert weights(_told(swap=False)) == weights(_told(swap=True))
    shared = [[f"{text} {word}" for text in TEXTS[:120]] for word in ("жщщж", "щжжщ")]
    assert weights(shared[0]) != weights(shared[1])


def test_copies_of_a_tweet_and_tweets_of_one_author_do_not_make_a_word_safe():
    texts = [f"said {word} {n}" for word in ("one", "two") for n in range(SAFE)]
    rows = [words_of(text) for text in texts]
    by_two = [0] * SAFE + list(range(1, SAFE + 1))
    assert SafeTerms.find(rows, texts, by_two).terms == {"said", "two"}
    copied = ["RT @a said https://t.co/a", "rt @b  said https://t.co/b"] * SAFE
    with pytest.raises(NoSafeTerms):
        SafeTerms.find([words_of(text) for text in copied], copied, range(2 * SAFE))


def test_names_addresses_and_digits_are_no_terms():
    text = "Ask @Jane_Doe7, jane.doe@example.org or @ JaneDoe at https://t.co/abc, 12 mg, b4 2pm, 我吃了5片药"
    told = impersonal(text)
    assert not re.search(r"jane|doe|example|t\.co|\d[^ ]|[a-z]\d|12|b4", told)
    assert "我吃了" in told
    assert "片药" in told


def test_names_and_numbers_of_single_tweets_answer_as_invented_ones_do():
    """A dictionary attack by probabilities: the area under the curve of known against invented names is chance."""
    rng = np.random.default_rng(7)

    def named(count: int) -> list[str]:
        return [
            "".join(rng.choice(list("bcdfghklmnprstvz")) + rng.choice(list("aeiou")) for _ in range(4))
            for _ in range(count)
        ]

    def numbered(count: int) -> list[str]:
        return [f"555{number}" for number in rng.integers(10**6, 10**7, count)]

    names, numbers = named(60), numbered(60)
    texts = [*(f"{t} {n} call {m}" for t, n, m in zip(TEXTS, names, numbers, strict=False)), *TEXTS[60:200]]
    model = fit_safe_counts("tfidf-logistic", texts, AUTHORS[:200], LABELS[:200], 3, seed=1)

    def answers(words: list[str]) -> np.ndarray:
        shift = np.log(model.predict_proba(words)) - np.log(model.predict_proba([""]))
        return np.abs(shift).max(axis=1)

    for known, invented in ((names, named(400)), (numbers, numbered(400))):
        ours, others = answers(known)[:, None], answers(invented)[None]
        area = (ours > others).mean() + (ours == others).mean() / 2
        deviation = np.sqrt((60 + 400 + 1) / (12 * 60 * 400))  # of the Mann-Whitney statistic, under chance
        assert abs(area - 0.5) < 5 * deviation
