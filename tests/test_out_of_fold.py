"""By the front door: the out-of-fold table, the stored rule, baselines in the same table, doubtful labels."""

import json
import shutil
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from conftest import MEMBERS, QUICKSTART, ROOT, job_words, recipe_of, shell
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline, make_union

import ensemble
from smm4h.config.arguments import BASELINES
from smm4h.config.recipe import read_command_line
from smm4h.data.prediction_files import read_labels
from smm4h.data.readers import read_tsv
from smm4h.ensemble.label_issues import find_label_issues
from smm4h.ensemble.member_predictions import read_out_of_fold
from smm4h.models.voting import softmax
from smm4h.models.word_models import words_of
from smm4h.training.baselines import CLASSIFIERS, fit_counts, fit_net, load_baseline, save_baseline

GOLD = QUICKSTART / "task5_test_gold.tsv"


@pytest.fixture(scope="module")
def tuned(tuned_job):
    return tuned_job.folder, tuned_job.words, tuned_job.outcome


def test_the_table_has_every_labelled_tweet_once_by_the_run_that_held_it_out(tuned):
    folder, _, _ = tuned
    table = pd.read_parquet(folder / "out_of_fold.parquet")
    folds = pd.read_parquet(folder / "folds.parquet")
    assert table["row"].tolist() == list(range(300))
    assert table["id"].tolist() == folds["id"].tolist()
    assert table["gold"].tolist() == folds["label"].tolist()
    for member, seed in (("counts", 42), ("svm", 24), ("encoder", 42)):
        for fold in range(5):
            part = pd.read_parquet(folder / member / f"fold-{fold}" / "held_out.parquet")
            rows = np.flatnonzero(folds[f"fold_{seed}"] == fold)
            for label in "123":
                assert table[f"{member} p_{label}"].to_numpy()[rows].tolist() == part[f"p_{label}"].tolist()


def test_a_table_that_lacks_a_tweet_is_refused(tuned, tmp_path):
    table = pa.parquet.read_table(tuned[0] / "out_of_fold.parquet")
    pa.parquet.write_table(table.slice(0, 299), tmp_path / "short.parquet")
    assert len(read_out_of_fold(tmp_path / "short.parquet")[1]) == 299  # the first ones: no row is missing amid them
    pa.parquet.write_table(pa.concat_tables([table.slice(0, 5), table.slice(6)]), tmp_path / "gap.parquet")
    with pytest.raises(ValueError, match="every tweet exactly once"):
        read_out_of_fold(tmp_path / "gap.parquet")


def test_the_stored_rule_is_what_every_script_votes_by(tuned, tmp_path, call):
    folder, _, _ = tuned
    outcome = call(ensemble.main, folder, "--output", tmp_path / "again.tsv", "--gold", short_gold(tmp_path))
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "again.tsv").read_bytes() == (folder / "votes" / "final.tsv").read_bytes()
    stored = json.loads((folder / "ensemble.json").read_text())
    assert f"out of fold, f1 {stored['out_of_fold']['f1']:.3f}" in outcome.out
    assert sum(stored["weights"].values()) == pytest.approx(1.0)
    assert stored["tuned_for"] == "f1 of 1, 2"
    assert stored["as_fitted"]["f1"] >= stored["out_of_fold"]["f1"] - 0.05
    score = json.loads((folder / "scores.json").read_text())["final vote"]["out_of_fold"]
    assert score == stored["out_of_fold"]


def short_gold(folder):
    lines = GOLD.read_text().splitlines()[:41]
    (folder / "gold.tsv").write_text("\n".join(lines) + "\n")
    return folder / "gold.tsv"


def test_another_vote_of_a_job_is_fitted_and_scored_out_of_fold(tuned, tmp_path, call):
    folder, _, _ = tuned
    scores = {}
    for method in ("hard", "soft", "weighted", "stacked"):
        words = (folder, "--method", method, "--output", tmp_path / f"{method}.tsv")
        outcome = call(ensemble.main, *words, "--decision", "tuned", "--members", "counts", "svm")
        assert outcome.code == 0, outcome.err
        scores[method] = float(outcome.out.split("out of fold, f1 ")[1].split()[0])
        assert len(read_labels(tmp_path / f"{method}.tsv").ids) == 40
    assert min(scores.values()) > 0.5
    plain = call(ensemble.main, folder, "--method", "hard", "--decision", "argmax", "--output", tmp_path / "plain.tsv")
    assert "hard vote, ties to the probability" in plain.out


@pytest.mark.parametrize("flags", [["--method", "greedy"], ["--decision", "tuned"]])
def test_files_can_not_be_fitted_on(tuned, tmp_path, call, flags):
    votes = tuned[0] / "votes" / "final.tsv"
    outcome = call(ensemble.main, votes, votes, *flags, "--output", tmp_path / "v.tsv")
    assert outcome.code == 2
    assert "files do not say what to fit a vote on" in outcome.err


def test_the_appraisal_says_what_each_member_and_their_number_are_worth(tuned):
    folder, _, outcome = tuned
    appraisal = json.loads((folder / "appraisal.json").read_text())
    assert set(appraisal["without"]) == set(MEMBERS)
    assert [row["members"] for row in appraisal["by_number"]] == [1, 2, 3]
    best = appraisal["best_member"]
    scores = json.loads((folder / "scores.json").read_text())
    assert best["name"] in ("counts", "svm")
    difference = scores["final vote"]["out_of_fold"]["f1"] - scores[best["name"]]["out_of_fold"]["f1"]
    assert best["difference"] == pytest.approx(difference)
    assert "final vote against its best member out of fold" in outcome.out
    assert "vote without" in outcome.out


def test_baselines_stand_in_the_table_and_have_no_vote(tuned):
    folder, _, outcome = tuned
    scores = json.loads((folder / "scores.json").read_text())
    assert scores["baseline textcnn"]["out_of_fold"]["f1"] > 0.2
    assert "baseline textcnn" in outcome.out
    assert not any("textcnn" in name for name in pd.read_parquet(folder / "out_of_fold.parquet").columns)
    assert (folder / "baselines" / "textcnn" / "fold-4" / "DONE").exists()


def test_an_ensemble_that_does_not_beat_a_baseline_is_told_so_loudly_and_baselines_come_later(
    tuned, tiny_encoder, tmp_path
):
    """The same folder, another command: only the new baseline is trained."""
    folder, words, _ = tuned
    weak = tmp_path / "out"
    shutil.copytree(folder, weak)
    (tmp_path / "recipe.yaml").write_text((folder.parent / "recipe.yaml").read_text())
    words = [str(tmp_path / "recipe.yaml"), *words[1:]]
    words[words.index("--output_dir") + 1] = str(weak)
    words[words.index("textcnn")] = "tfidf-svm"
    again = shell(sys.executable, "run_classification.py", *words)
    assert again.code == 0, again.err
    assert "baseline tfidf-svm" in again.out
    assert "17 of 22 runs are done already" in again.out
    alone = job_words(tiny_encoder, tmp_path / "alone")
    alone[0] = recipe_of(tmp_path, encoder="{head: mean}")
    alone[alone.index("none")] = "tfidf-logistic"
    alone[alone.index("--max_train_samples") + 1] = "300"
    outcome = shell(sys.executable, "run_classification.py", *alone)
    assert outcome.code == 0, outcome.err
    assert "THE ENSEMBLE DOES NOT BEAT baseline tfidf-logistic" in outcome.out


TEXTS = [f"my daughter has a defect number {n}" if n % 4 == 0 else f"nothing but words number {n}" for n in range(80)]
LABELS = np.array([0 if n % 4 == 0 else 1 for n in range(80)])


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_learns_what_words_tell_and_comes_back_from_disk_as_it_was(name, tmp_path):
    fit = fit_counts if name in CLASSIFIERS else fit_net
    model = fit(name, TEXTS, LABELS, 3, seed=1)
    found = model.predict_proba([*TEXTS, "", "🙂"])
    assert found.shape == (82, 3)
    np.testing.assert_allclose(found.sum(axis=1), 1.0, atol=1e-5)
    assert (found[:80].argmax(axis=1) == LABELS).mean() > 0.95
    save_baseline(name, model, tmp_path)
    np.testing.assert_array_equal(load_baseline(tmp_path).predict_proba(TEXTS), model.predict_proba(TEXTS))
    np.testing.assert_array_equal(fit(name, TEXTS, LABELS, 3, seed=1).predict_proba(TEXTS), found[:80])


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("n_classes", [2, 3])
def test_counted_words_are_scikit_learns_pipeline(name, n_classes):
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(["Ünï", "a", "Baby's", "#x", "🙂", "born", "y\n z  "], 6)) for _ in range(60)]
    labels = rng.integers(0, n_classes, 60)
    shared = {"sublinear_tf": True, "min_df": 2}
    words = TfidfVectorizer(tokenizer=words_of, token_pattern=None, ngram_range=(1, 2), **shared)
    features = make_union(words, TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), **shared))
    pipeline = make_pipeline(features, CLASSIFIERS[name](1)).fit(texts, labels)
    distances = pipeline.decision_function([*texts, ""])
    distances = distances if n_classes > 2 else np.column_stack([-distances / 2, distances / 2])
    found = fit_counts(name, texts, labels, n_classes, seed=1).predict_proba([*texts, ""])
    np.testing.assert_allclose(found, softmax(distances), atol=1e-6)
    if name == "tfidf-logistic":
        np.testing.assert_allclose(found, pipeline.predict_proba([*texts, ""]), atol=1e-6)


@pytest.mark.parametrize("name", BASELINES)
def test_no_word_of_a_tweet_is_kept(name, tmp_path):
    fit = fit_counts if name in CLASSIFIERS else fit_net
    save_baseline(name, fit(name, TEXTS, LABELS, 3, seed=1), tmp_path)
    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert not any(word in kept for word in (b"daughter", b"defect", b"nothing"))


def test_a_finished_baselines_model_gives_the_predictions_that_it_gave(tuned):
    folder = tuned[0] / "svm" / "fold-2"
    texts = read_tsv(QUICKSTART / "task5_test_participant.tsv", None).columns[2][:40]
    found = load_baseline(folder / "model").predict_proba(texts)
    given = pd.read_parquet(folder / "test.parquet")[["p_1", "p_2", "p_3"]]
    np.testing.assert_allclose(found, given, atol=1e-6)


def test_a_planted_wrong_label_is_the_first_to_be_doubted():
    rng = np.random.default_rng(0)
    gold = rng.choice(3, 400, p=[0.1, 0.1, 0.8])
    probabilities = 0.9 * np.eye(3)[gold] + 0.1 / 3
    said = gold.copy()
    gold[17] = (gold[17] + 1) % 3
    assert find_label_issues(probabilities, gold)[0] == 17
    assert len(find_label_issues(probabilities, said)) == 0


def test_doubtful_labels_are_listed_with_their_tweets(tuned):
    table = read_tsv(tuned[0] / "label_problems.tsv", None)
    assert table.names == ["row", "id", "label", "members_say", "p_label", "p_members_say", "text"]
    columns = dict(zip(table.names, table.columns, strict=True))
    folds = pd.read_parquet(tuned[0] / "folds.parquet")
    assert len(table.lines) > 0
    for row, tweet_id, label, other in zip(
        *(columns[name] for name in ("row", "id", "label", "members_say")), strict=True
    ):
        assert folds["id"][int(row)] == tweet_id
        assert folds["label"][int(row)] == label != other


@pytest.mark.parametrize("task", sorted(path.name for path in (ROOT / "tasks").glob("*.yaml")))
def test_the_rare_recipe_is_read_for_every_task_as_it_is(task, tmp_path):
    words = ["recipes/rare.yaml", "--task", str(ROOT / "tasks" / task), "--output_dir", str(tmp_path)]
    job = read_command_line(words)
    assert (job.settings.vote, job.settings.decision) == ("soft", "tuned")
    assert {member.get("checkpoint") for member in job.members if member.has_encoder} == {"last"}


def test_the_rare_recipe_runs_from_tweets_to_submission(tiny_encoder, tmp_path):
    """Thinned: two folds, two steps."""
    words = job_words(tiny_encoder, tmp_path / "out", "--n_folds", 2, "--min_steps", 2)
    words[0] = str(ROOT / "recipes" / "rare.yaml")
    outcome = shell(sys.executable, "run_classification.py", *words)
    assert outcome.code == 0, outcome.err
    stored = json.loads((tmp_path / "out" / "ensemble.json").read_text())
    assert len(stored["rule"]["members"]) == 6
    assert (tmp_path / "out" / "submission" / "prediction_task5.zip").exists()
    steps = json.loads((tmp_path / "out" / "last3-pooler-1" / "fold-0" / "metrics.json").read_text())["steps"]
    rare = (pd.read_parquet(tmp_path / "out" / "folds.parquet").query("fold_42 != 0")["label"] != "3").sum()
    assert steps == -(-min(rare * 11, 30) // 16)
