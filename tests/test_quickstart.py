"""The invented tweets: as the script invents them, in the official shape, and beyond any keyword rule."""

import re
import runpy
import sys

import numpy as np
import pytest
from conftest import QUICKSTART, ROOT, TASK5

from smm4h.config.task import read_task
from smm4h.data.dataset import read_tweets
from smm4h.data.prediction_files import read_labels


@pytest.fixture(scope="module")
def tweets():
    task = read_task(TASK5)
    labelled, findings = read_tweets(
        [QUICKSTART / f"task5_{p}.tsv" for p in ("training", "validation")], task, labelled=True
    )
    test, more = read_tweets([QUICKSTART / "task5_test_participant.tsv"], task, labelled=False)
    gold = read_labels(QUICKSTART / "task5_test_gold.tsv").indices(task.labels)
    return task, labelled, test, gold, findings + more


def test_what_ships_is_what_the_script_invents(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["invent_tweets.py", str(tmp_path)])
    runpy.run_path(str(ROOT / "quickstart" / "invent_tweets.py"), run_name="__main__")
    for path in QUICKSTART.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_they_have_the_official_shape_with_its_traps(tweets):
    assert b"\r\n" in (QUICKSTART / "task5_training.tsv").read_bytes()
    assert not (QUICKSTART / "task5_test_participant.tsv").read_bytes().endswith(b"\n")
    told = " ".join(finding.what for finding in tweets[4])
    for trap in ("cp1252", "utf-8", "unwrapped", "more fields", "share their id"):
        assert trap in told


KEYWORD_RULES = {
    "a parent's words": r"\b(my|our) (son|daughter|baby|little|youngest|oldest|newborn|boy|girl|twin)",
    "born with": r"\b(born with|has|have|had)\b",
    "hospital": r"\b(surgery|surgeon|NICU|scan|diagnosis|operation|repair)\b",
    "a first person": r"\b(I|my|our|we)\b",
}


@pytest.mark.parametrize("rule", KEYWORD_RULES)
def test_a_keyword_rule_misses_rare_tweets_and_takes_common_ones(tweets, rule):
    task, labelled, *_ = tweets
    rare = np.isin(np.asarray(labelled["label"]), task.positive_indices)
    hit = np.array([bool(re.search(KEYWORD_RULES[rule], text, re.IGNORECASE)) for text in labelled["text"]])
    assert (rare & ~hit).any()
    assert (~rare & hit).sum() >= 10
    f1 = 2 * (rare & hit).sum() / (rare.sum() + hit.sum())
    assert f1 < 0.7, f"{rule} tells rare from common with F1 {f1:.2f}"
