"""Pseudo-labeling: teachers never saw the held-out tweets, and no held-out tweet comes back."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import INVENTED, job_words, recipe_of, train_here
from tweet_files import tweets_with_duplicates

from smm4h.config.job import Member
from smm4h.config.plans.run import Run
from smm4h.config.recipe import read_command_line
from smm4h.data.duplicates import normalized_text
from smm4h.data.folds import add_folds, folds_of
from smm4h.data.readers.formats import read_tsv
from smm4h.data.splits import load_splits
from smm4h.ensemble.pseudo_labeling import never_trained_on


def test_a_teacher_has_seen_a_tweet_by_its_row_whatever_the_folds_name(tmp_path):
    labelled = add_folds(tweets_with_duplicates(tmp_path), 5, [42, 24])
    held_out = folds_of(labelled, 42) == 3

    def run(seed, fold):
        return Run(Member("m", {"fold_seed": seed}), fold, tmp_path, "")

    assert [fold for fold in range(5) if never_trained_on(run(42, fold), held_out, labelled)] == [3]
    assert not any(never_trained_on(run(24, fold), held_out, labelled) for fold in range(5))
    assert not never_trained_on(run(42, None), held_out, labelled)  # refitted to all
    renamed = labelled.rename_columns({"fold_24": "old", "fold_42": "fold_24"})  # the same folds by another name
    assert never_trained_on(run(24, 3), held_out, renamed)


TEACHERS = {
    "one": "{head: mean, fold_seed: 42}",
    "two": "{classifier: tfidf-logistic, fold_seed: 42, refit: true}",
    "other": "{classifier: tfidf-svm, fold_seed: 24}",
}


def read_parts(folder: Path) -> list[pd.DataFrame]:
    """Return the pseudo-labelled tweets of each fold."""
    tables = [read_tsv(folder / f"fold-{fold}.tsv", None) for fold in range(5)]
    return [pd.DataFrame(dict(zip(table.names, table.columns, strict=True))) for table in tables]


STUDENTS = {
    "first": "{head: mean, pseudo_labels: true, refit: true, checkpoint: last}",
    "second": "{classifier: textcnn, pseudo_labels: true, pseudo_round: 2}",
}


@dataclass
class PseudoLabelJob:
    """A job with two rounds of pseudo labels, and what it printed."""

    folder: Path
    out: str

    def counts(self, part: str) -> dict:
        """Return what was drawn, left out and accepted, by fold."""
        return json.loads((self.folder / "pseudo_labels" / part / "counts.json").read_text())


@pytest.fixture(scope="module")
def pseudo_label_job(tiny_encoder, tmp_path_factory) -> PseudoLabelJob:
    """Soft pseudo labels of 70 tweets, of which 20 have the id of a labelled tweet and 20 the words of one."""
    folder = tmp_path_factory.mktemp("pseudo")
    flags = {"pseudo_from": "unseen", "pseudo_fraction": 1, "pseudo_soft": True}
    words = job_words(tiny_encoder, folder / "out", recipe=recipe_of(folder, **TEACHERS, **STUDENTS), **flags)
    labelled = load_splits(read_command_line(words)).labelled.to_pandas()
    rows = [(row.id, row.user, "other words altogether") for row in labelled[:20].itertuples()]
    rows += [(f"9{n}", "u", f"{row.text.upper()} @you") for n, row in enumerate(labelled[20:40].itertuples())]
    rows += [(f"8{n}", "u", f"my son was born number {n}") for n in range(30)]
    lines = ["\t".join((tweet_id, user, " ".join(text.split()))) for tweet_id, user, text in rows]
    (folder / "pool.tsv").write_text("tweet_id\tuser_id\ttweet\n" + "\n".join(lines) + "\n")
    result = train_here([*words, "--unlabelled_file", folder / "pool.tsv"])
    assert result.code == 0, result.err
    return PseudoLabelJob(folder / "out", result.out)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["seed-42", "round-2/seed-42"])
def test_no_held_out_tweet_returns_as_a_pseudo_label(pseudo_label_job, part):
    folds = pd.read_parquet(pseudo_label_job.folder / "folds.parquet")["fold_42"].to_numpy()
    for fold, table in enumerate(read_parts(pseudo_label_job.folder / "pseudo_labels" / part)):
        accepted = set(table["row"].astype(int))
        held_out = {row for row in range(40) if folds[row] == fold}
        assert held_out
        assert not accepted & held_out
        assert accepted >= set(range(40)) - held_out  # tweets of other folds may return
    counts = pseudo_label_job.counts(part)
    left_out = [counts[f"fold-{fold}"]["held_out"] for fold in range(5)]
    assert sum(left_out) == 40


@pytest.mark.slow
def test_only_runs_that_never_saw_a_folds_tweets_teach_it(pseudo_label_job):
    out = pseudo_label_job.out
    first, second = pseudo_label_job.counts("seed-42"), pseudo_label_job.counts("round-2/seed-42")
    for fold in range(5):
        assert first[f"fold-{fold}"]["teachers"] == [f"one/fold-{fold}", f"two/fold-{fold}"]
        assert second[f"fold-{fold}"]["teachers"] == [f"first/fold-{fold}"]
        accepted = first[f"fold-{fold}"]["accepted"]
        shown = [70, first[f"fold-{fold}"]["held_out"], 0, *accepted.values()]
        assert re.search(rf"fold-{fold} +" + " +".join(map(str, shown)), out), out
    assert "*" not in out  # no score is optimistically biased


@pytest.mark.slow
def test_a_refit_learns_from_all_teachers_for_it_holds_no_tweet_out(pseudo_label_job):
    """Its part is of the pool's duplicates of labelled tweets, too; the second round's folds are not taught by it."""
    folder, counts = pseudo_label_job.folder, pseudo_label_job.counts("seed-42")["refit"]
    assert counts["teachers"] == ["one", "two", "other"]
    assert (counts["drawn"], counts["held_out"]) == (70, 0)
    metrics = json.loads((folder / "first" / "refit" / "metrics.json").read_text())
    assert (metrics["pseudo_tweets"], metrics["training_tweets"]) == (70, 60 + 70)
    assert "refit" not in pseudo_label_job.counts("round-2/seed-42")


@pytest.mark.slow
def test_soft_labels_are_the_teachers_probabilities(pseudo_label_job):
    folder = pseudo_label_job.folder
    part = read_parts(folder / "pseudo_labels" / "seed-42")[0]
    probs = part[["p_1", "p_2", "p_3"]].astype(float).to_numpy()
    teachers = [pd.read_parquet(folder / name / "fold-0" / "unlabelled.parquet") for name in ("one", "two")]
    expected = np.mean([t[["p_1", "p_2", "p_3"]].to_numpy() for t in teachers], axis=0)
    np.testing.assert_allclose(probs, expected[part["row"].astype(int)], atol=1e-5)
    metrics = json.loads((folder / "first" / "fold-0" / "metrics.json").read_text())
    assert metrics["pseudo_tweets"] == len(part)
    assert not (folder / "second" / "fold-0" / "unlabelled.parquet").exists()  # no round follows


@pytest.mark.slow
def test_the_plan_says_where_unlabelled_tweets_came_from(pseudo_label_job):
    plan = json.loads((pseudo_label_job.folder / "plan.json").read_text())
    assert plan["unlabelled"]["file"] == "pool.tsv"
    assert plan["unlabelled"]["tweets"] == 70
    assert len(plan["unlabelled"]["sha256"]) == len(plan["data"]["unlabelled"]) == 64


def test_each_fold_gets_another_tenth_of_the_stage_1_vote_without_duplicates_of_its_held_out_tweets(finished_job):
    votes = [
        line.split("\t")[1] for line in (finished_job.folder / "votes" / "stage1.tsv").read_text().splitlines()[1:]
    ]
    folds = pd.read_parquet(finished_job.folder / "folds.parquet")
    texts = {}
    for part in ("training", "validation"):
        table = read_tsv(INVENTED / f"task5_{part}.tsv", None)
        texts.update(zip(table.columns[0], map(normalized_text, table.columns[2]), strict=True))
    seen = []
    for fold in range(5):
        part = read_tsv(finished_job.folder / "pseudo_labels" / "seed-42" / f"fold-{fold}.tsv", None)
        assert part.names == ["row", "tweet_id", "user_id", "tweet", "class"]
        rows = [int(row) for row in part.columns[0]]
        assert len(rows) <= 4  # a tenth of 40
        assert part.columns[4] == [votes[row] for row in rows]
        held_out = {texts[tweet_id] for tweet_id in folds["id"][folds["fold_42"] == fold]}
        assert not held_out & {normalized_text(text) for text in part.columns[3]}
        metrics = json.loads((finished_job.folder / "bigru-clean-pseudo" / f"fold-{fold}" / "metrics.json").read_text())
        assert metrics["pseudo_tweets"] == len(rows)
        assert metrics["training_tweets"] == 48 + len(rows)
        seen += rows
    assert len(seen) == len(set(seen)) > 0
