"""A job on tweets with several labels each, from its task file to a published pipeline."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from conftest import python, train
from sklearn.metrics import f1_score
from sklearn.preprocessing import MultiLabelBinarizer

import smm4h
from smm4h.cli import distill, predict, publish, vote
from smm4h.cli import train as train_command

LABELS = ["pain", "sleep", "mood"]
TASK = """name: effects
labels: [pain, sleep, mood]
multi_label: "|"
measure: [f1, macro_f1]
columns: {id: id, text: text, label: labels}
submission: {file: answer.csv, columns: {id: id, pain: "label: pain", sleep: "label: sleep", mood: "label: mood"}}
"""
RECIPE = """shared: {n_folds: 2, vote: greedy, decision: tuned, max_seq_length: 24, retrain_collapsed: false}
members:
  counts: {classifier: tfidf-logistic, refit: true}
  encoder: {head: mean, num_train_epochs: 1, checkpoint: last, class_weights: balanced, focal_gamma: 1.0}
"""
PIPELINE = """
import json, sys, transformers
pipe = transformers.pipeline("text-classification", sys.argv[1], trust_remote_code=True)
print(json.dumps([pipe(json.load(open(sys.argv[2]))), pipe("cannot sleep", top_k=None)]))
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
    result = train([*map(str, words)])
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
    test = scores["final vote"]["test"]
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
    result = call(predict.main, job / "out", job / "test.csv", "--output", new, "--use_cpu")
    assert result.code == 0, result.err
    labels = pd.read_csv(new, keep_default_na=False)
    assert labels.columns.tolist() == ["id", "labels", *(f"p_{label}" for label in LABELS)]
    votes = pd.read_csv(job / "out" / "votes" / "final.tsv", sep="\t", keep_default_na=False)
    assert labels["labels"].tolist() == votes["Class"].tolist()
    texts = pd.read_csv(job / "test.csv")["text"].tolist()[:20]
    loaded = smm4h.load(str(job / "out"), device="cpu").predict(texts)
    assert loaded["label"].tolist() == sets_of(labels["labels"][:20], ";")
    published = tmp_path / "published"
    result = call(publish.main, job / "out", "--to_folder", published)
    assert result.code == 0, result.err
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    result = python("-c", PIPELINE, published, tmp_path / "texts.json", cwd=tmp_path / "empty")
    assert result.code == 0, result.err
    given, ranked = json.loads(result.out.splitlines()[-1])
    assert [sorted(one["label"] for one in of_text) for of_text in given] == [*map(sorted, loaded["label"])]
    assert {one["label"] for one in ranked} == set(LABELS)
    shutil.rmtree(published)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["hard", "soft", "weighted", "greedy", "stacked"])
def test_all_votes_follow_and_a_hard_one_is_the_majority_for_each_label(job, call, tmp_path, method):
    output = tmp_path / "vote.tsv"
    words = ["--method", method, "--output", output, "--gold", job / "gold.csv"]
    result = call(vote.main, job / "out", *words)
    assert result.code == 0, result.err
    assert "vote by label" in result.out


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
    ("member", "flags", "message"),
    [
        ("{predictions: {out_of_fold: a.tsv}}", [], "predictions from elsewhere can't vote in a multi-label task"),
        ("{classifier: textcnn}", [], "textcnn gives one label a tweet"),
        ("{classifier: tfidf-svm}", ["--baselines", "word-bigru"], "--baselines word-bigru gives one label a tweet"),
        ("{classifier: tfidf-svm}", ["--decision", "recall>=0.9"], "a target is for tasks of one label a tweet"),
        ("{classifier: tfidf-svm}", ["--decision", "pain: 3"], "class weights are for tasks of one label a tweet"),
    ],
)
def test_what_does_not_follow_is_refused_before_anything_is_read(call, tmp_path, member, flags, message):
    (tmp_path / "task.yaml").write_text(TASK)
    (tmp_path / "recipe.yaml").write_text(f"members:\n  m: {member}\n")
    words = [tmp_path / "recipe.yaml", "--task", tmp_path / "task.yaml", "--train_file", tmp_path / "missing.csv"]
    result = call(train_command.main, *words, "--output_dir", tmp_path / "out", *flags)
    assert result.code == 2
    assert message in result.err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_student_is_refused(job, call):
    result = call(distill.main, job / "out", "--model_name_or_path", "x")
    assert result.code == 2
    assert "gives tweets several labels, which students do not learn" in result.err
