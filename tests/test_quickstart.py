"""The invented tweets: reproducible, in the official shape, and beyond any keyword rule."""

import random
import re
import runpy
import sys
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT, TASK5
from datasets import Dataset

from smm4h.config.task import Task
from smm4h.config.task_file import read_task
from smm4h.data.dataset import read_tweets
from smm4h.data.outputs.label_files import read_labels

QUICKSTART = ROOT / "quickstart" / "data"


@dataclass
class Tweets:
    task: Task
    labelled: Dataset
    test: Dataset
    findings: list  # on all files


@pytest.fixture(scope="module")
def tweets() -> Tweets:
    task = read_task(TASK5)
    files = [QUICKSTART / f"task5_{part}.tsv" for part in ("training", "validation")]
    labelled, findings = read_tweets(files, task, labelled=True)
    test, more = read_tweets([QUICKSTART / "task5_test_participant.tsv"], task, labelled=False)
    return Tweets(task, labelled, test, findings + more)


@pytest.fixture(scope="module")
def invent_tweets() -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(ROOT / "quickstart" / "invent_tweets.py")))


def test_what_ships_is_what_the_script_invents(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["invent_tweets.py", str(tmp_path)])
    runpy.run_path(str(ROOT / "quickstart" / "invent_tweets.py"), run_name="__main__")
    for path in QUICKSTART.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_the_tweets_have_the_official_shape_with_its_traps(tweets):
    assert b"\r\n" in (QUICKSTART / "task5_training.tsv").read_bytes()
    assert not (QUICKSTART / "task5_test_participant.tsv").read_bytes().endswith(b"\n")
    text = " ".join(finding.what for finding in tweets.findings)
    for trap in ("cp1252", "utf-8", "unwrapped", "more fields", "share their id"):
        assert trap in text
    gold = read_labels(QUICKSTART / "task5_test_gold.tsv").indices(tweets.task.labels)
    assert len(gold) == len(tweets.test)


KEYWORD_RULES = {
    "a parent's words": r"\b(my|our) (son|daughter|baby|little|youngest|oldest|newborn|boy|girl|twin)",
    "born with": r"\b(born with|has|have|had)\b",
    "hospital": r"\b(surgery|surgeon|NICU|scan|diagnosis|operation|repair)\b",
    "a first person": r"\b(I|my|our|we)\b",
}


@pytest.mark.parametrize("rule", KEYWORD_RULES)
def test_no_keyword_rule_separates_rare_tweets_from_common_ones(tweets, rule):
    rare = np.isin(np.asarray(tweets.labelled["label"]), tweets.task.positive_indices)
    hit = np.array([bool(re.search(KEYWORD_RULES[rule], text, re.IGNORECASE)) for text in tweets.labelled["text"]])
    assert (rare & ~hit).any()
    assert (~rare & hit).sum() >= 10
    f1 = 2 * (rare & hit).sum() / (rare.sum() + hit.sum())
    assert f1 < 0.7, f"{rule} tells rare from common with F1 {f1:.2f}"


def test_the_same_words_stand_in_tweets_of_every_label(invent_tweets):
    """A child, a defect, a dream, a quotation: whose, whether and how decide, not the word."""
    tweets = invent_tweets.invent_all(random.Random(1), 3000, invent_tweets.SHARES)
    for word in ("my son", "daughter", "born with", "surgery", "dream", "not", "scan"):
        assert {label for _, _, text, label in tweets if word in text.lower()} == {"1", "2", "3"}, word


MEANINGS = {
    ("own", "affected", "real"): "1",
    ("own", "suspected", "real"): "2",
    ("unclear", "affected", "real"): "2",
    ("own", "clear", "real"): "3",
    ("other", "affected", "real"): "3",
    ("own", "affected", "unreal"): "3",
}


@pytest.mark.parametrize("meaning", MEANINGS)
def test_a_label_follows_from_whose_child_how_it_is_and_whether_that_is_so(invent_tweets, meaning):
    assert invent_tweets.Meaning(*meaning).label == MEANINGS[meaning]
