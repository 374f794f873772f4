"""A job whose labels look like markup and formulas, from training to the next command's input."""

import html
import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT, shell, train_here

from smm4h.cli import predict, pseudo_label, report, vote

LABELS = ["[/old]", "$a_b$", "_none"]
WORDS = ["headache", "summer", "coffee"]  # of each label, without digits, which members do not read
TASK = """
name: "[/task] $x$"
labels: ["[/old]", "$a_b$", _none]
positive: ["[/old]", "$a_b$"]
columns: {text: text, label: label, id: id}
submission: {file: prediction.csv, columns: [tweet_id, Class]}
meanings: {"$a_b$": "[b]meaning $ of it"}
published: {"_$mean$ [/x]": 0.5}
"""
RECIPE = """
shared: {classifier: tfidf-logistic, n_folds: 2, threads_per_worker: 1, baselines: none, use_cpu: true}
members: {_counts: {fold_seed: 42}, svm: {classifier: tfidf-svm}}
"""


@dataclass
class OddJob:
    folder: Path
    home: Path
    tweets: Path
    task: Path


def train_job(home: Path, name: str, *words) -> OddJob:
    (home / "task.yaml").write_text(TASK, encoding="utf-8")
    (home / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    rows = [{"id": f"1{i:03}", "text": f"{WORDS[i % 3]} some text {i}", "label": LABELS[i % 3]} for i in range(60)]
    frame = pd.DataFrame(rows)
    frame.to_csv(home / "train.csv", index=False)
    frame["id"] = [f"2{i:03}" for i in range(60)]
    frame.drop(columns="label").to_csv(home / "new.csv", index=False)
    named = {"task": "~/task.yaml", "train_file": "~/train.csv", "output_dir": f"~/{name}"}
    flags = [word for flag, value in named.items() for word in (f"--{flag}", value)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        result = train_here([home / "recipe.yaml", *flags, *words])
    assert result.code == 0, result.err + result.out
    return OddJob(home / name, home, home / "new.csv", home / "task.yaml")


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> OddJob:
    return train_job(tmp_path_factory.mktemp("odd"), "[/job] $1$", "--test_file", "~/new.csv")


@pytest.fixture(scope="module")
def job_without_test_tweets(tmp_path_factory) -> OddJob:
    return train_job(tmp_path_factory.mktemp("lone"), "job")


pytestmark = pytest.mark.slow


def test_labels_that_look_like_markup_pass_through_a_whole_job(job):
    scores = json.loads((job.folder / "scores.json").read_text(encoding="utf-8"))
    assert {"_counts", "svm", "final vote"} <= set(scores)
    assert (job.folder / "report.html").is_file()
    assert sorted(pd.read_csv(job.folder / "votes" / "final.tsv", sep="\t")["Class"].unique()) == sorted(LABELS)


def test_a_submission_named_csv_holds_commas(job):
    frame = pd.read_csv(job.folder / "submission" / "prediction.zip", dtype=str)
    assert frame.columns.tolist() == ["tweet_id", "Class"]
    expected = pd.read_csv(job.folder / "votes" / "final.tsv", sep="\t", dtype=str)
    assert frame.to_dict("list") == expected.to_dict("list")


def test_the_report_is_written_again(job, call):
    result = call(report.main, job.folder)
    assert result.code == 0, result.err
    assert result.out == f"written to {job.folder / 'report.html'}\n"


def test_a_vote_of_the_job_prints_names_as_they_are(job, tmp_path, call):
    result = call(vote.main, job.folder, "--output", tmp_path / "v.csv", "--method", "soft")
    assert result.code == 0, result.err
    assert "[/old]: 20, $a_b$: 20, _none: 20" in result.out
    assert pd.read_csv(tmp_path / "v.csv")["Class"].tolist() == [LABELS[i % 3] for i in range(60)]


def test_predictions_are_the_next_commands_input(job, tmp_path, call):
    columns = "label,probability,margin,votes"
    for name in ("labels.csv", "labels.parquet", "labels.jsonl.gz"):
        result = call(predict.main, job.folder, job.tweets, "--output", tmp_path / name, "--columns", columns)
        assert result.code == 0, result.err
        result = call(
            vote.main,
            tmp_path / name,
            job.folder / "votes" / "final.tsv",
            "--output",
            tmp_path / "v.csv",
            "--overwrite",
        )
        assert result.code == 0, result.err
        assert pd.read_csv(tmp_path / "v.csv")["Class"].tolist() == [LABELS[i % 3] for i in range(60)]
        parts = tmp_path / f"parts-{name}"
        words = [tmp_path / name, "--tweets", job.tweets, "--task", job.task, "--output_dir", parts]
        result = call(pseudo_label.main, *words, "--train_file", job.home / "train.csv", "--parts", "2")
        assert result.code == 0, result.err
        rows = pd.concat(pd.read_csv(part, sep="\t", dtype=str) for part in parts.iterdir())
        assert rows["label"].tolist() == [LABELS[int(row) % 3] for row in rows["row"]]


def test_predictions_of_a_jobs_runs_vote_with_their_probabilities(job, tmp_path, call):
    runs = [job.folder / member / f"fold-{fold}" / "test.parquet" for member in ("_counts", "svm") for fold in (0, 1)]
    result = call(vote.main, *runs, "--method", "soft", "--output", tmp_path / "v.csv", "--task", job.task)
    assert result.code == 0, result.err
    assert pd.read_csv(tmp_path / "v.csv")["Class"].tolist() == [LABELS[i % 3] for i in range(60)]


def test_a_job_without_test_tweets_has_nothing_to_vote_on(job_without_test_tweets, tmp_path, call):
    job = job_without_test_tweets
    for words in ([], ["--method", "soft"], ["--members", "svm"]):
        result = call(vote.main, job.folder, *words, "--output", tmp_path / "v.tsv")
        assert result.code == 2
        expected = f"{job.folder} is a job without test tweets, so there is nothing to vote on; label new tweets with"
        assert result.err == f"error: {expected} predict.py\n"
    result = call(predict.main, job.folder, job.tweets, "--output", tmp_path / "labels.tsv")
    assert result.code == 0, result.err


def test_a_fitted_decision_that_no_test_tweets_adjusted_is_said_to_be_so(job_without_test_tweets, tmp_path, call):
    folder, note = tmp_path / "job", "the decision was fitted to tweets that one fold's model of each member predicts"
    shutil.copytree(job_without_test_tweets.folder, folder)
    for decision, is_noted in (("tuned", True), ("argmax", False)):
        result = call(vote.main, folder, "--save", "--decision", decision)
        assert result.code == 0, result.err
        assert (note in result.out) == is_noted
        report_text = (folder / "report.html").read_text(encoding="utf-8")
        assert (note in html.unescape(report_text)) == is_noted


LIBRARIES = (
    *("cleanlab.filter", "datasets", "filelock", "huggingface_hub.hf_api", "jinja2", "matplotlib.figure", "pandas"),
    *("psutil", "rich.progress", "sklearn.linear_model", "torch", "transformers.modeling_utils"),
    *("torch.distributed.checkpoint", "transformers.models.auto.modeling_auto"),
)
AS_ON_WINDOWS = f"""
import importlib, json, multiprocessing, os, signal, sys
for library in {LIBRARIES}:
    importlib.import_module(library)  # these ask for the platform
for name in ("SIGKILL", "SIGHUP", "SIGSTOP", "SIGUSR1", "pthread_sigmask"):
    delattr(signal, name)
for name in ("sched_getaffinity", "getsid", "setsid", "killpg", "fork", "forkpty", "getuid", "getpgid"):
    delattr(os, name)
multiprocessing.get_all_start_methods = lambda: ["spawn"]
sys.modules.update(dict.fromkeys(("fcntl", "resource", "termios", "pwd", "grp")))
import smm4h.inference.loading
from smm4h.utils.errors import run_main
for command, *words in json.loads(sys.argv[1]):
    run_main(lambda: importlib.import_module("smm4h.cli." + command).main(words))
"""


def test_commands_on_a_finished_job_need_nothing_that_only_unix_has(job, tmp_path):
    script = tmp_path / "as_on_windows.py"
    script.write_text(AS_ON_WINDOWS, encoding="utf-8")
    commands = (
        ("predict", job.folder, job.tweets, "--output", tmp_path / "labels.csv"),
        ("vote", job.folder, "--output", tmp_path / "v.csv"),
        ("report", job.folder),
    )
    result = shell(sys.executable, script, json.dumps(commands, default=str), env={"PYTHONPATH": str(ROOT)})
    assert result.code == 0, result.err
    assert len(pd.read_csv(tmp_path / "labels.csv")) == len(pd.read_csv(tmp_path / "v.csv")) == 60
