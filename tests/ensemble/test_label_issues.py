"""Labels that the members contradict."""

import json
import re

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from tweet_files import TASK, labelled_tweets

from smm4h.data.outputs.predictions import MAKER
from smm4h.data.readers.formats import read_tsv
from smm4h.data.readers.spreadsheets import protect, unprotect
from smm4h.ensemble.label_issues import find_label_issues, write_label_issues


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


@pytest.mark.parametrize("text", ["@ann said", "=1+1", "-5", "- no", "'=x", '"=a"', '"=a" b', "plain", "+4 9 1", "＝1"])
def test_a_cell_for_people_is_run_by_no_spreadsheet_and_reads_back(text):
    shown = protect(text)
    assert unprotect(shown) == text
    assert not re.match(r"[=@]|[+-](?![0-9.]+$)", shown.strip(' "'))


def test_label_issues_are_private_and_protected(tmp_path):
    """40 tweets, all of which begin as a formula does; one has a wrong label."""
    rows = [(str(i), "u", f"=cmd {i}", 1 + i % 3) for i in range(40)]
    labelled, gold = labelled_tweets(rows, tmp_path / "a.tsv"), np.arange(40) % 3
    gold[7] = (gold[7] + 1) % 3
    probs = 0.9 * np.eye(3)[np.arange(40) % 3] + 0.1 / 3
    columns = {"row": np.arange(40), "id": labelled["id"][:], "gold": [TASK.labels[index] for index in gold]}
    columns |= {f"m p_{label}": probs[:, index] for index, label in enumerate(TASK.labels)}
    maker = {MAKER: json.dumps({"members": ["m"], "labels": TASK.labels})}
    pa.parquet.write_table(pa.table(columns).replace_schema_metadata(maker), tmp_path / "oof.parquet")
    write_label_issues(tmp_path / "issues.tsv", tmp_path / "oof.parquet", labelled)
    table = read_tsv(tmp_path / "issues.tsv", None)
    assert list(table.columns[-1]) == ["'=cmd 7"]
    assert (tmp_path / "issues.tsv").stat().st_mode & 0o077 == 0
