"""Labels that the members contradict."""

import numpy as np
import pandas as pd

from smm4h.data.readers.formats import read_tsv
from smm4h.ensemble.label_issues import find_label_issues


def test_a_planted_wrong_label_is_the_first_label_issue():
    rng = np.random.default_rng(0)
    gold = rng.choice(3, 400, p=[0.1, 0.1, 0.8])
    probs = 0.9 * np.eye(3)[gold] + 0.1 / 3
    predicted = gold.copy()
    gold[17] = (gold[17] + 1) % 3
    assert find_label_issues(probs, gold)[0] == 17
    assert len(find_label_issues(probs, predicted)) == 0


def test_label_issues_are_listed_with_their_tweets(tuned_job):
    table = read_tsv(tuned_job.folder / "label_problems.tsv", None)
    assert table.names == ["row", "id", "label", "members_say", "p_label", "p_members_say", "text"]
    columns = dict(zip(table.names, table.columns, strict=True))
    folds = pd.read_parquet(tuned_job.folder / "folds.parquet")
    assert len(table.lines) > 0
    for row, tweet_id, label, predicted in zip(
        *(columns[name] for name in ("row", "id", "label", "members_say")), strict=True
    ):
        assert folds["id"][int(row)] == tweet_id
        assert folds["label"][int(row)] == label != predicted
