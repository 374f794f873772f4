"""Leaks, planted and refused: twins and users across folds, held-out tweets and their labels among pseudo labels."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import QUICKSTART, job_words, recipe_of, shell

import run_classification
from smm4h.config.job import Member
from smm4h.config.plan import Run
from smm4h.config.task import read_task
from smm4h.data import pseudo_labels
from smm4h.data.dataset import read_tweets
from smm4h.data.duplicates import across_folds, connected_groups, cross_findings, leak_groups
from smm4h.data.folds import add_folds, folds_of, grouped_folds
from smm4h.data.readers import read_tsv
from smm4h.ensemble.pseudo_labeling import never_trained_on

TASK = read_task("tasks/task5.yaml")


def tweets_of(rows, path: Path):
    path.write_text("tweet_id\tuser_id\ttweet\tclass\n" + "".join("\t".join(map(str, row)) + "\n" for row in rows))
    return read_tweets([path], TASK, labelled=True)[0]


def test_groups_join_through_any_chain_of_keys():
    texts = np.array(["a", "a", "b", "b", "", "", "c"], dtype=object)
    users = np.array(["u", "v", "v", "w", "", "", "x"], dtype=object)
    groups = connected_groups(texts, users)
    assert len(set(groups[:4])) == 1
    assert len(set(groups[3:])) == 4  # tweets without words or user are nobody's twins
    assert len(set(connected_groups(texts))) == 5


def planted(tmp_path):
    """40 tweets of each class; twins, in the classes' own numbers, of every fourth; users with two tweets each."""
    rows = []
    for number in range(120):
        label = 1 + number % 3
        rows.append((f"1{number}", f"u{number // 2}", f"tweet {number} about class {label}", label))
        if number % 4 == 0:
            rows.append((f"2{number}", f"x{number}", f"@me TWEET {number} about class {label} https://t.co/x", label))
    return tweets_of(rows, tmp_path / "train.tsv")


@pytest.mark.parametrize("by_user", [False, True])
def test_grouped_folds_part_no_twins_and_no_users_and_keep_the_shares(tmp_path, by_user):
    labelled = planted(tmp_path)
    groups = leak_groups(labelled, TASK, by_user=by_user)
    plain, grouped = add_folds(labelled, 5, [42]), add_folds(labelled, 5, [42], groups)
    shares = {True: 0, False: 0}
    for cut, is_grouped in ((plain, False), (grouped, True)):
        across = across_folds(cut, [42])
        shares[is_grouped] = int(across["a near twin"].sum())
        if by_user:
            assert across["a tweet of the same user"].any() != is_grouped
    assert shares[True] == 0
    assert shares[False] > 10
    for label in range(3):
        counts = np.bincount(folds_of(grouped, 42)[np.array(labelled["label"]) == label], minlength=5)
        assert counts.max() - counts.min() <= 3


def test_a_repeated_id_stays_in_one_fold(tmp_path):
    rows = [(f"1{n // 2}", "", f"words number {n}", 1 + n // 2 % 3) for n in range(60)]
    labelled = tweets_of(rows, tmp_path / "train.tsv")
    folds = folds_of(add_folds(labelled, 5, [42], leak_groups(labelled, TASK, by_user=False)), 42)
    assert np.array_equal(folds[::2], folds[1::2])


def test_tweets_that_are_only_numbered_are_not_one_for_their_number(tmp_path):
    """Own data without a column of ids: each file is numbered from 0."""
    numbered = replace(TASK, columns=replace(TASK.columns, id=[]))
    rows = [(n, "", f"words number {n}", 1 + n % 3) for n in range(30)]
    labelled = tweets_of(rows + rows[:5], tmp_path / "train.tsv")
    groups = leak_groups(labelled.select(range(30)), numbered, by_user=False)
    assert len(set(groups)) == 30
    labelled = add_folds(labelled, 5, [42])
    other = tweets_of([(3, "", "nothing of the sort", 1)], tmp_path / "other.tsv")
    for task, comes in ((numbered, True), (TASK, False)):
        held_out = pseudo_labels.held_out_keys_by_fold(labelled, task, 42, 5)
        assert all(not pseudo_labels.is_held_out(other, fold).any() for fold in held_out) == comes
    findings = cross_findings(labelled, other, [42], numbered)
    assert not any("have the id" in finding.what for finding in findings)


def test_groups_too_large_for_the_folds_are_refused():
    labels, groups = np.array([0] * 10 + [1] * 10), np.array([0] * 10 + list(range(1, 11)))
    with pytest.raises(ValueError, match="holds no tweet of a label out"):
        grouped_folds(labels, groups, 5, 42)


def test_near_twins_stay_together_by_the_front_door(tiny_encoder, tmp_path, call):
    planted(tmp_path)
    words = job_words(tiny_encoder, tmp_path / "out", "--fold_by", "stratified_group", "--group_users")
    words[0] = recipe_of(tmp_path, one="{classifier: tfidf-logistic}")
    outcome = call(run_classification.main, *words, "--train_file", tmp_path / "train.tsv", "--max_train_samples", 500)
    assert outcome.code == 0, outcome.err
    assert "in another fold" not in outcome.out
    folds = pd.read_parquet(tmp_path / "out" / "folds.parquet")
    numbers = folds["id"].str[1:]
    assert (folds.groupby(numbers)["fold_42"].nunique() == 1).all()


def test_a_teacher_has_seen_a_tweet_by_its_row_whatever_the_fold_is_called(tmp_path):
    labelled = add_folds(planted(tmp_path), 5, [42, 24])
    held_out = folds_of(labelled, 42) == 3

    def run(seed, fold):
        return Run(Member("m", {"fold_seed": seed}), fold, tmp_path, "")

    assert [fold for fold in range(5) if never_trained_on(run(42, fold), held_out, labelled)] == [3]
    assert not any(never_trained_on(run(24, fold), held_out, labelled) for fold in range(5))
    assert not never_trained_on(run(42, None), held_out, labelled)  # refitted to all
    renamed = labelled.rename_columns({"fold_24": "old", "fold_42": "fold_24"})  # the same cut by another seed's name
    assert never_trained_on(run(24, 3), held_out, renamed)


def test_filters_believe_confident_and_agreed_labels():
    sure, split = [[0.9, 0.1], [0.95, 0.05]], [[0.9, 0.1], [0.4, 0.6]]
    probabilities = np.array([sure, split]).transpose(1, 0, 2)  # (2 teachers, 2 tweets, 2 classes)
    labels = pseudo_labels.Filters().labels(probabilities)
    assert labels.tolist() == [0, 0]
    assert pseudo_labels.Filters(confidence=0.7).believed(probabilities, labels).tolist() == [True, False]
    assert pseudo_labels.Filters(agreement=0.8).believed(probabilities, labels).tolist() == [True, False]
    assert pseudo_labels.Filters(confidence=0.6, agreement=0.5).believed(probabilities, labels).tolist() == [True, True]


def test_labels_by_prior_come_in_the_classes_shares_the_likeliest_first():
    rng = np.random.default_rng(0)
    rare = rng.random(100) * 0.3  # argmax would name none
    probabilities = np.stack([rare, 1 - rare], axis=1)[None]
    labels = pseudo_labels.Filters(prior=np.array([0.1, 0.9])).labels(probabilities)
    assert np.flatnonzero(labels == 0).tolist() == sorted(np.argsort(-rare)[:10])


TEACHERS = {
    "one": "{head: mean, fold_seed: 42}",
    "two": "{classifier: tfidf-logistic, fold_seed: 42, refit: true}",
    "other": "{classifier: tfidf-svm, fold_seed: 24}",
}


def read_parts(folder: Path) -> list[pd.DataFrame]:
    tables = [read_tsv(folder / f"fold-{fold}.tsv", None) for fold in range(5)]
    return [pd.DataFrame(dict(zip(table.names, table.columns, strict=True))) for table in tables]


@pytest.fixture(scope="module")
def taught(tiny_encoder, tmp_path_factory):
    """A job with two rounds of soft pseudo labels on a pool into which held-out tweets were smuggled."""
    folder = tmp_path_factory.mktemp("taught")
    words = job_words(tiny_encoder, folder / "out", "--pseudo_from", "unseen", "--pseudo_fraction", 1, "--pseudo_soft")
    students = {
        "first": "{head: mean, pseudo_labels: true}",
        "second": "{classifier: textcnn, pseudo_labels: true, pseudo_round: 2}",
    }
    words[0] = recipe_of(folder, **TEACHERS, **students)
    labelled = run_classification.load_splits(run_classification.read_command_line(words)).labelled.to_pandas()
    smuggled = [(row.id, row.user, "other words altogether") for row in labelled[:20].itertuples()]
    smuggled += [(f"9{n}", "u", f"{row.text.upper()} @you") for n, row in enumerate(labelled[20:40].itertuples())]
    fresh = [(f"8{n}", "u", f"my son was born number {n}") for n in range(30)]
    rows = ["\t".join((i, u, " ".join(t.split()))) for i, u, t in [*smuggled, *fresh]]
    (folder / "pool.tsv").write_text("tweet_id\tuser_id\ttweet\n" + "\n".join(rows) + "\n")
    outcome = call_job([*words, "--unlabelled_file", str(folder / "pool.tsv")])
    return folder / "out", labelled, outcome


def call_job(words):

    outcome = shell(sys.executable, "run_classification.py", *words)
    assert outcome.code == 0, outcome.err
    return outcome


@pytest.mark.parametrize("place", ["seed-42", "round-2/seed-42"])
def test_a_held_out_tweet_comes_back_under_no_name(taught, place):
    folder, _, _ = taught
    folds = pd.read_parquet(folder / "folds.parquet")["fold_42"].to_numpy()
    for fold, part in enumerate(read_parts(folder / "pseudo_labels" / place)):
        taken = set(part["row"].astype(int))
        held_out = {row for row in range(40) if folds[row] == fold}
        assert held_out
        assert not taken & held_out
        assert taken >= set(range(40)) - held_out  # tweets of other folds may come
    counts = json.loads((folder / "pseudo_labels" / place / "counts.json").read_text())
    left_out = [counts[f"fold-{fold}"]["held_out"] for fold in range(5)]
    assert sum(left_out) == 40


def test_only_runs_that_never_saw_a_folds_tweets_teach_it(taught):
    folder, _, outcome = taught
    first, second = (
        json.loads((folder / "pseudo_labels" / place / "counts.json").read_text())
        for place in ("seed-42", "round-2/seed-42")
    )
    for fold in range(5):
        assert first[f"fold-{fold}"]["teachers"] == [f"one/fold-{fold}", f"two/fold-{fold}"]
        assert second[f"fold-{fold}"]["teachers"] == [f"first/fold-{fold}"]
        accepted = first[f"fold-{fold}"]["accepted"]
        shown = [70, first[f"fold-{fold}"]["held_out"], 0, *accepted.values()]
        assert re.search(rf"fold-{fold} +" + " +".join(map(str, shown)), outcome.out), outcome.out
    assert "*" not in outcome.out  # nothing is flattered


def test_soft_labels_are_the_teachers_probabilities(taught):
    folder, _, _ = taught
    part = read_parts(folder / "pseudo_labels" / "seed-42")[0]
    shares = part[["p_1", "p_2", "p_3"]].astype(float).to_numpy()
    teachers = [pd.read_parquet(folder / name / "fold-0" / "unlabelled.parquet") for name in ("one", "two")]
    expected = np.mean([t[["p_1", "p_2", "p_3"]].to_numpy() for t in teachers], axis=0)
    np.testing.assert_allclose(shares, expected[part["row"].astype(int)], atol=1e-5)
    metrics = json.loads((folder / "first" / "fold-0" / "metrics.json").read_text())
    assert metrics["pseudo_tweets"] == len(part)
    assert not (folder / "second" / "fold-0" / "unlabelled.parquet").exists()  # it teaches nobody


def test_the_plan_says_where_unlabelled_tweets_came_from(taught):
    folder, _, _ = taught
    plan = json.loads((folder / "plan.json").read_text())
    assert plan["unlabelled"]["file"] == "pool.tsv"
    assert plan["unlabelled"]["tweets"] == 70
    assert len(plan["unlabelled"]["sha256"]) == len(plan["data"]["unlabelled"]) == 64


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--pseudo_from", "unseen"], "every teacher has seen tweets that its folds hold out"),
        (["--pseudo_confidence", "2"], "--pseudo_confidence 2.0: a share from 0 to 1"),
        (["--group_users"], "--group_users needs --fold_by stratified_group"),
    ],
)
def test_what_would_leak_or_make_no_sense_is_refused(tiny_encoder, tmp_path, call, flags, message):
    student = {"student": "{head: mean, fold_seed: 7, pseudo_labels: true}"}
    words = job_words(tiny_encoder, tmp_path / "out", *flags)
    words[0] = recipe_of(tmp_path, **TEACHERS, **student)
    outcome = call(run_classification.main, *words)
    assert outcome.code == 2
    assert message in outcome.err


def test_an_unlabelled_file_without_students_is_refused(tiny_encoder, tmp_path, call):
    words = job_words(tiny_encoder, tmp_path / "out", "--unlabelled_file", QUICKSTART / "task5_test_participant.tsv")
    words[0] = recipe_of(tmp_path, **TEACHERS)
    outcome = call(run_classification.main, *words)
    assert outcome.code == 2
    assert "no member of the recipe trains on pseudo labels" in outcome.err


def test_a_round_without_teachers_is_refused(tiny_encoder, tmp_path, call):
    words = job_words(tiny_encoder, tmp_path / "out")
    words[0] = recipe_of(tmp_path, **TEACHERS, late="{head: mean, pseudo_labels: true, pseudo_round: 2}")
    outcome = call(run_classification.main, *words)
    assert outcome.code == 2
    assert "pseudo_round 2 has no teachers" in outcome.err


def test_tweets_that_share_an_id_or_words_are_one(tmp_path):
    held_out = pseudo_labels.HeldOutKeys(keys={"my son"}, ids={"7"})
    tweets = tweets_of([("7", "u", "else", 1), ("8", "u", "@a MY  son", 1), ("9", "u", "mine", 1)], tmp_path / "t.tsv")
    assert pseudo_labels.is_held_out(tweets, held_out).tolist() == [True, True, False]
    assert pseudo_labels.is_held_out(tweets, replace(held_out, keys={""})).tolist() == [True, False, False]
