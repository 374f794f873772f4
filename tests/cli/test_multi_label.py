"""A job on tweets with several labels each, from its task file to a published pipeline."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import transformers
from conftest import train_here
from sklearn.metrics import f1_score
from sklearn.preprocessing import MultiLabelBinarizer

import smm4h
from smm4h.cli import distill, label_next, predict, publish, vote
from smm4h.cli import train as train_command

LABELS = ["pain", "sleep", "mood"]
TASK = """name: effects
labels: [pain, sleep, mood]
multi_label: "|"
measure: [f1, macro_f1]
columns: {id: id, text: text, label: labels}
submission: {file: answer.csv, columns: {id: id, pain: "label: pain", sleep: "label: sleep", mood: "label: mood"}}
"""
RECIPE = """shared:
  n_folds: 2
  vote: greedy
  decision: tuned
  max_seq_length: 24
  retrain_collapsed: false
  pseudo_fraction: 0.5
  pseudo_confidence: 0.6
members:
  counts: {classifier: tfidf-logistic, refit: true}
  learner: {classifier: tfidf-svm, pseudo_labels: true}
  net: {classifier: textcnn}
  encoder: {head: mean, num_train_epochs: 1, checkpoint: last, class_weights: balanced, focal_gamma: 1.0}
"""
SAYS = {"pain": "my back hurts so much", "sleep": "cannot sleep at night", "mood": "feeling low and sad"}
RARE = {"pain": 0.4, "sleep": 0.25, "mood": 0.08}


def invented(seed: int, n_tweets: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    words = ["summer", "garden", "weather", "yellow", "window", "coffee", "train", "bread", "music", "chapter"]
    rows = []
    for i in range(n_tweets):
        labels = [label for label in LABELS if rng.random() < RARE[label]]
        said = [SAYS[label] for label in labels if rng.random() < 0.85]
        text = " ".join([*rng.choice(words, 4), *said, str(rng.choice(words))])
        rows.append((f"{seed}_{i}", text, "|".join(labels)))
    return pd.DataFrame(rows, columns=["id", "text", "labels"])


@pytest.fixture(scope="module")
def job(tmp_path_factory, tiny_encoder):
    """A folder with `out`, the finished job, and its files."""
    folder = tmp_path_factory.mktemp("sets")
    (folder / "task.yaml").write_text(TASK)
    (folder / "recipe.yaml").write_text(RECIPE)
    test = invented(2, 60)
    invented(1, 200).to_csv(folder / "train.csv", index=False)
    test.drop(columns="labels").to_csv(folder / "test.csv", index=False)
    test[["id", "labels"]].to_csv(folder / "gold.csv", index=False)
    files = [word for part in ("train", "test", "gold") for word in (f"--{part}_file", folder / f"{part}.csv")]
    words = [folder / "recipe.yaml", "--task", folder / "task.yaml", *files, "--output_dir", folder / "out"]
    words += ["--model_name_or_path", tiny_encoder, "--baselines", "tfidf-svm", "--use_cpu"]
    result = train_here(words)
    assert result.code == 0, result.err
    (folder / "printed").write_text(result.out)
    return folder


def matrix_of(sets) -> np.ndarray:
    return MultiLabelBinarizer(classes=LABELS).fit_transform(list(sets))


def sets_of(texts, separator: str) -> list[list[str]]:
    return [[label for label in str(text).split(separator) if label] for text in texts]


@pytest.mark.slow
def test_the_scores_are_scikit_learns_and_the_submission_has_the_votes(job):
    gold = matrix_of(sets_of(pd.read_csv(job / "gold.csv", keep_default_na=False)["labels"], "|"))
    votes = pd.read_csv(job / "out" / "votes" / "final.tsv", sep="\t", keep_default_na=False)
    predicted = matrix_of(sets_of(votes["Class"], ";"))
    scores = json.loads((job / "out" / "scores.json").read_text())
    test = scores["final vote *"]["test"]
    assert test["f1"] == pytest.approx(f1_score(gold, predicted, average="micro"))
    assert test["macro_f1"] == pytest.approx(f1_score(gold, predicted, average="macro"))
    by_label = f1_score(gold, predicted, average=None)
    assert [test["groups"][label]["f1"] for label in LABELS] == pytest.approx(by_label)
    answer = pd.read_csv(job / "out" / "submission" / "answer.zip")
    assert answer.columns.tolist() == ["id", *LABELS]
    assert answer["id"].tolist() == votes["tweet_id"].tolist()
    assert (answer[LABELS].to_numpy() == predicted).all()
    assert test["f1"] > 0.8, "what is said in the tweets tells the labels"
    assert "final vote by label: f1" in (job / "printed").read_text()
    appraisal = json.loads((job / "out" / "appraisal.json").read_text())
    assert appraisal["classes"]["test"]["mood"]["support"] == gold[:, 2].sum()
    issues = pd.read_csv(job / "out" / "label_problems.tsv", sep="\t")
    assert set(issues["label"]) <= {*LABELS, *(f"not {label}" for label in LABELS)}


@pytest.mark.slow
def test_each_label_has_a_cut_that_was_tuned_on_other_tweets(job):
    rule = json.loads((job / "out" / "ensemble.json").read_text())
    assert list(rule["label_thresholds"]) == LABELS
    assert len({cut[0] for cut in rule["label_thresholds"].values()}) == 3
    assert rule["out_of_fold"]["f1"] <= rule["as_fitted"]["f1"] + 0.02
    table = pd.read_parquet(job / "out" / "out_of_fold.parquet")
    gold, predicted = (matrix_of(sets_of(table[name], ";")) for name in ("gold", "final vote"))
    assert rule["out_of_fold"]["f1"] == pytest.approx(f1_score(gold, predicted, average="micro"))
    cut = {label: (table[f"final vote p_{label}"] > rule["label_thresholds"][label][0]) for label in LABELS}
    assert (np.stack(list(cut.values()), axis=1) != predicted).any(), "the table's votes are cross-fitted"


@pytest.mark.slow
def test_predictions_the_published_pipeline_and_the_loaded_job_agree(job, call, tmp_path):
    new = tmp_path / "labels.csv"
    columns = ["--columns", "label,probability,margin,votes"]
    result = call(predict.main, job / "out", job / "test.csv", "--output", new, "--use_cpu", *columns)
    assert result.code == 0, result.err
    labels = pd.read_csv(new, keep_default_na=False)
    assert labels.columns.tolist() == ["id", "labels", *(f"p_{label}" for label in LABELS), "margin", "votes"]
    votes = pd.read_csv(job / "out" / "votes" / "final.tsv", sep="\t", keep_default_na=False)
    assert labels["labels"].tolist() == votes["Class"].tolist()
    texts = pd.read_csv(job / "test.csv")["text"].tolist()[:20]
    loaded = smm4h.load(str(job / "out"), device="cpu").predict(texts)
    assert loaded["label"].tolist() == sets_of(labels["labels"][:20], ";")
    published = tmp_path / "published"
    result = call(publish.main, job / "out", "--to_folder", published)
    assert result.code == 0, result.err
    pipe = transformers.pipeline("text-classification", str(published), trust_remote_code=True, device="cpu")
    assert [sorted(one["label"] for one in of_text) for of_text in pipe(texts)] == [*map(sorted, loaded["label"])]
    assert {one["label"] for one in pipe("cannot sleep", top_k=None)} == set(LABELS)
    shutil.rmtree(published)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "decision"),
    [("hard", "tuned"), ("soft", "argmax"), ("weighted", "f2"), ("greedy", "argmax"), ("stacked", "0.3")],
)
def test_all_votes_and_decisions_follow(job, call, tmp_path, method, decision):
    output = tmp_path / "vote.tsv"
    words = ["--method", method, "--decision", decision, "--output", output, "--gold", job / "gold.csv"]
    result = call(vote.main, job / "out", *words)
    assert result.code == 0, result.err
    assert "vote by label" in result.out
    assert "groups" not in result.out


@pytest.mark.slow
def test_the_words_that_carried_a_label_of_a_set_are_found(job, call, tmp_path):
    words = ["--output", tmp_path / "o.csv", "--explain", 6, "--members", "counts,learner", "--use_cpu"]
    result = call(predict.main, job / "out", job / "test.csv", *words)
    assert result.code == 0, result.err
    table = pd.read_csv(tmp_path / "o.explained.csv")
    heaviest = table.groupby("id", sort=False).first()
    assert len(heaviest) == 6
    for label, word in zip(heaviest["labels"], heaviest["word"], strict=True):
        assert word in SAYS[label].split()
    assert (tmp_path / "o.explained.html").is_file()


def test_a_vote_of_files_is_the_majority_for_each_label(call, tmp_path):
    (tmp_path / "task.yaml").write_text(TASK)
    sets = {"a": ["pain|mood", ""], "b": ["mood", "sleep"], "c": ["pain", "sleep|pain"]}
    for name, (first, second) in sets.items():
        (tmp_path / f"{name}.tsv").write_text(f"id\tlabels\nt1\t{first}\nt2\t{second}\n")
    files = [tmp_path / f"{name}.tsv" for name in sets]
    result = call(vote.main, *files, "--task", tmp_path / "task.yaml", "--output", tmp_path / "vote.tsv")
    assert result.code == 0, result.err
    assert (tmp_path / "vote.tsv").read_text() == "tweet_id\tClass\nt1\tpain;mood\nt2\tsleep\n"
    (tmp_path / "a.tsv").write_text("id\tlabels\nt1\tpain|mood\nt2\tpain\n")
    result = call(vote.main, *files, "--output", tmp_path / "other.tsv")
    assert result.code == 2
    assert "pain|mood lists several labels; name the --task" in result.err


@pytest.mark.parametrize(
    ("decision", "message"),
    [
        ("recall>=0.9", "a target is for tasks of one label a tweet"),
        ("pain: 3", "class weights are for tasks of one label a tweet"),
        ("macro_f1", "a multi-label task is tuned for its own metric or an F-beta"),
    ],
)
def test_a_decision_that_does_not_follow_is_refused_before_anything_is_read(call, tmp_path, decision, message):
    (tmp_path / "task.yaml").write_text(TASK)
    (tmp_path / "recipe.yaml").write_text("members:\n  m: {classifier: tfidf-svm}\n")
    words = [tmp_path / "recipe.yaml", "--task", tmp_path / "task.yaml", "--train_file", tmp_path / "missing.csv"]
    result = call(train_command.main, *words, "--output_dir", tmp_path / "out", "--decision", decision)
    assert result.code == 2
    assert message in result.err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_pseudo_labels_are_sets_that_are_believed_label_by_label(job):
    parts = sorted((job / "out" / "pseudo_labels").rglob("fold-*.tsv"))
    assert len(parts) == 2
    table = pd.concat([pd.read_csv(part, sep="\t", keep_default_na=False) for part in parts])
    sets = sets_of(table["labels"], ";")
    assert {label for labels in sets for label in labels} <= set(LABELS)
    assert [] in sets, "a tweet without any label is labelled, too"
    said = [[label for label in LABELS if SAYS[label] in text] for text in table["text"]]
    assert f1_score(matrix_of(said), matrix_of(sets), average="micro") > 0.8
    metrics = json.loads((job / "out" / "learner" / "fold-0" / "metrics.json").read_text())
    assert metrics["pseudo_tweets"] > 10


@pytest.mark.slow
def test_a_student_gives_labels_over_half_as_often_as_the_ensemble(job, call, tmp_path, tiny_encoder):
    words = ["--model_name_or_path", tiny_encoder, "--num_train_epochs", "1", "--max_seq_length", "32", "--use_cpu"]
    result = call(distill.main, job / "out", *words, "--output_dir", tmp_path / "student")
    assert result.code == 0, result.err
    labels = pd.read_csv(tmp_path / "student" / "test.tsv", sep="\t", keep_default_na=False)
    votes = pd.read_csv(job / "out" / "votes" / "final.tsv", sep="\t", keep_default_na=False)
    counts = [matrix_of(sets_of(table["Class"], ";")).sum(axis=0) for table in (labels, votes)]
    assert (np.abs(counts[0] - counts[1]) <= 1).all()
    texts = pd.read_csv(job / "test.csv")["text"].tolist()
    loaded = smm4h.load(str(tmp_path / "student"), device="cpu").predict(texts)
    assert loaded["label"].tolist() == sets_of(labels["Class"], ";")
    plain = transformers.pipeline("text-classification", str(tmp_path / "student" / "model"), device="cpu", top_k=None)
    scores = pd.DataFrame([{f"p_{one['label']}": one["score"] for one in of_text} for of_text in plain(texts)])
    assert np.abs(scores[loaded.columns[1:]].to_numpy() - loaded.iloc[:, 1:].to_numpy()).max() < 1e-5


@pytest.mark.slow
def test_what_to_label_next_is_chosen_by_the_label_that_is_least_certain(job, call, tmp_path):
    words = [job / "out", job / "test.csv", "--n", "10", "--random", "0", "--use_cpu", "--suggest"]
    result = call(label_next.main, *words, "--output", tmp_path / "next.csv")
    assert result.code == 0, result.err
    chosen = pd.read_csv(tmp_path / "next.csv", keep_default_na=False)
    assert len(chosen) == 10
    assert {label for labels in sets_of(chosen["suggestion"], ";") for label in labels} <= set(LABELS)
    result = call(label_next.main, *words, "--output", tmp_path / "blank.csv", "--blank_label")
    assert result.code == 2
    assert "an empty cell of labels says that a tweet has no label" in result.err


@pytest.mark.slow
def test_predictions_from_elsewhere_vote_with_a_probability_of_each_label(job, call, tmp_path):
    """Those of a finished job's member, as files."""
    for part, file in (("out_of_fold", "out_of_fold.parquet"), ("test", "counts/refit/test.parquet")):
        table = pd.read_parquet(job / "out" / file)
        prefix = "counts " if part == "out_of_fold" else ""
        table = table[["id", *(f"{prefix}p_{label}" for label in LABELS)]]
        table.set_axis(["id", *(f"p_{label}" for label in LABELS)], axis=1).to_csv(
            tmp_path / f"{part}.csv", index=False
        )
    recipe = "shared: {n_folds: 2, vote: soft, baselines: none}\nmembers:\n  words: {classifier: tfidf-svm}\n"
    files = f"{{out_of_fold: {tmp_path / 'out_of_fold.csv'}, test: {tmp_path / 'test.csv'}}}"
    (tmp_path / "recipe.yaml").write_text(f"{recipe}  judge: {{predictions: {files}}}\n")
    words = [tmp_path / "recipe.yaml", "--task", job / "task.yaml", "--use_cpu", "--output_dir", tmp_path / "out"]
    words += [word for part in ("train", "test", "gold") for word in (f"--{part}_file", job / f"{part}.csv")]
    result = call(train_command.main, *words)
    assert result.code == 0, result.err
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert scores["judge"]["out_of_fold"]["f1"] > 0.8
    assert scores["judge"]["test"]["f1"] > 0.8
