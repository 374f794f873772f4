"""The main command from tweets to submission: 45 runs by two processes; again, resumed, and in parts."""

import itertools
import json
import math
import re
import shutil
import zipfile

import numpy as np
import pandas as pd
import pytest
from conftest import INVENTED, ROOT, all_files, job_words, launch, leave_temporaries, recipe_of, train
from tweet_files import tweets_with_duplicates

from smm4h.cli import report
from smm4h.cli.train import main
from smm4h.data.outputs.predictions import read_predictions
from smm4h.data.readers.formats import read_tsv


def test_one_command_makes_45_runs_votes_and_a_submission(finished_job):
    assert finished_job.result.code == 0, finished_job.result.err
    assert len(list(finished_job.folder.glob("*/fold-*/DONE"))) == 45
    out = finished_job.result.out
    assert "run 45/45" in out
    for row in ("bigru-42", "last3-pooler-42", "bigru-clean-pseudo *", "stage-1 vote", "final vote"):
        assert row in out
    assert "min" in out
    assert "prediction_task5.zip" in out


def test_a_job_ends_with_what_to_do_next(finished_job):
    lines = finished_job.result.out.split("\n\n")[-1].splitlines()
    assert [line.split()[0] for line in lines] == ["read", "submit", "predict", "publish", "all"]
    assert lines[0].endswith(str(finished_job.folder / "report.html"))
    assert lines[1].endswith(str(finished_job.folder / "submission" / "prediction_task5.zip"))
    assert f"python predict.py {finished_job.folder} new_tweets.csv --output labels.csv" in lines[2]


def test_two_processes_trained_side_by_side(finished_job):
    spans = []
    for path in finished_job.folder.glob("*/fold-*/DONE"):
        end = path.stat().st_mtime
        spans.append((end - json.loads(path.read_text())["seconds"], end))
    spans.sort()
    assert any(begin < end for (_, end), (begin, _) in itertools.pairwise(spans))


def test_every_labelled_tweet_is_held_out_once_by_each_member(finished_job):
    folds = pd.read_parquet(finished_job.folder / "folds.parquet")
    assert list(folds.columns) == ["row", "id", "label", "fold_24", "fold_42"]
    for member in sorted(path.parent.parent.name for path in finished_job.folder.glob("*/fold-0/DONE")):
        seed = 24 if member.endswith("24") else 42
        rows = []
        for fold in range(5):
            held_out = read_predictions(finished_job.folder / member / f"fold-{fold}" / "held_out.parquet")
            assert held_out.rows.tolist() == folds.index[folds[f"fold_{seed}"] == fold].tolist()
            assert held_out.ids.to_pylist() == folds["id"][held_out.rows].tolist()
            np.testing.assert_allclose(held_out.probabilities.sum(axis=1), 1.0, atol=1e-5)
            rows += held_out.rows.tolist()
        assert sorted(rows) == list(range(60))


def test_output_rows_are_input_rows_in_input_order(finished_job):
    ids = [line.split("\t")[0] for line in (INVENTED / "task5_test_participant.tsv").read_text().split("\n")[1:41]]
    assert len(set(ids)) == 39  # one id is there twice
    for path in finished_job.folder.glob("*/fold-*/test.parquet"):
        assert read_predictions(path).ids.to_pylist() == ids
    for name in ("stage1", "final"):
        lines = (finished_job.folder / "votes" / f"{name}.tsv").read_text().splitlines()
        assert lines[0] == "tweet_id\tClass"
        assert [line.split("\t")[0] for line in lines[1:]] == ids
    with zipfile.ZipFile(finished_job.folder / "submission" / "prediction_task5.zip") as archive:
        assert archive.namelist() == ["prediction_task5.tsv"]
        content = archive.read("prediction_task5.tsv").decode()
    assert content == (finished_job.folder / "votes" / "final.tsv").read_text()
    assert {line.split("\t")[1] for line in content.splitlines()[1:]} <= {"1", "2", "3"}


def test_no_tweet_is_printed_or_written_outside_the_files_that_are_to_hold_tweets(finished_job):
    texts = [
        text
        for part in ("training", "validation")
        for text in read_tsv(INVENTED / f"task5_{part}.tsv", None).columns[2]
    ]
    beginnings = {" ".join(text.split()[:5]) for text in texts if len(text.split()) > 5}
    shown = finished_job.result.out + finished_job.result.err
    for path in finished_job.folder.rglob("*"):
        if path.name in ("label_problems.tsv", "errors.tsv"):
            continue
        if path.is_file() and "pseudo_labels" not in path.parts and path.suffix in (".json", ".tsv", ".py", ""):
            shown += path.read_text(errors="replace")
    assert not [words for words in beginnings if words in shown]


def test_the_same_command_again_trains_nothing_and_removes_what_killed_processes_left(copied_job):
    def times():
        return {path: path.stat().st_mtime_ns for path in copied_job.folder.glob("*/fold-*/DONE")}

    files_before, times_before = all_files(copied_job.folder), times()
    for place in ("", "last3-42", "last3-42/fold-0", "tokens", "votes", "pseudo_labels"):
        leave_temporaries(copied_job.folder / place)
    result = launch(1, copied_job.words)
    assert result.code == 0, result.err
    assert "final vote" in result.out
    assert all_files(copied_job.folder) == files_before
    assert times() == times_before
    assert not list(copied_job.folder.rglob(".*"))


def test_what_is_missing_is_made_again_with_the_same_bytes_by_one_process(copied_job):
    """The fixture used two processes and another order of runs, on which no byte depends."""
    folder = copied_job.folder
    before = all_files(folder)
    for name in ("bigru-24/fold-3", "last2-pooler-clean-pseudo/fold-1"):
        shutil.rmtree(folder / name)
    for name in ("votes/stage1.tsv", "votes/final.tsv", "submission/prediction_task5.zip", "last3-42/fold-0/DONE"):
        (folder / name).unlink()
    shutil.rmtree(folder / "pseudo_labels")
    shutil.rmtree(folder / "tokens")
    result = launch(1, copied_job.words)
    assert result.code == 0, result.err
    assert "42 of 45 runs are done already" in result.out
    assert all_files(folder) == before


def test_list_shows_45_runs_and_trains_nothing(tiny_encoder, tmp_path, call, finished_job):
    result = call(main, *job_words(tiny_encoder, tmp_path / "new"), "--list")
    assert "45 runs" in result.out
    assert "0 done, 0 running, 0 failed, 45 missing" in result.out
    assert not (tmp_path / "new").exists()
    result = call(main, *finished_job.words, "--list", "--members", "bigru-24", "--folds", 1, 3)
    assert "2 runs" in result.out
    assert "2 done" in result.out


@pytest.mark.slow
def test_members_and_folds_choose_runs_and_the_vote_waits(tiny_encoder, tmp_path, call):
    words = job_words(tiny_encoder, tmp_path / "part", token="hf_secret")
    result = call(main, *words, "--members", "last3-42", "--folds", 0, 2)
    assert result.code == 0, result.err
    assert sorted(p.parent.name for p in (tmp_path / "part").glob("*/*/DONE")) == ["fold-0", "fold-2"]
    assert "43 of 45 runs are missing, so there is no final vote yet" in result.out
    assert not (tmp_path / "part" / "votes").exists()
    assert "hf_secret" not in (tmp_path / "part" / "plan.json").read_text()
    result = call(main, *words, "--members", "bigru-clean-pseudo")
    assert result.code == 2
    assert "bigru-clean-pseudo needs pseudo labels, and 28 runs of their teachers are missing" in result.err


def test_a_folder_that_can_not_be_written_is_named(tiny_encoder, tmp_path, call, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied", "out/plan.json")

    monkeypatch.setattr("smm4h.utils.temporaries.tempfile.mkstemp", refuse)
    result = call(main, *job_words(tiny_encoder, tmp_path / "out"))
    assert result.code == 2
    assert "error: Permission denied (out/plan.json)" in result.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data_dir", "nowhere"], "task5_training.tsv is not there"),
        (["--max_train_samples", "20"], "fewer than the 5 folds"),
        (["--model_name_or_path", "no/such-encoder"], "no/such-encoder can't be loaded"),
        (["--max_seq_length", "4000"], "is more than"),
        (["--encoding", "ascii"], "not valid ascii"),
        (["--gold_file", "nothing.tsv"], "nothing.tsv is not there"),
        (["--per_device_train_batch_size", "many"], "invalid int value"),
        (["--text_column_name", "body"], "no column body among tweet_id, user_id, tweet, class"),
    ],
)
def test_bad_input_stops_with_one_sentence_and_exit_code_2(tiny_encoder, tmp_path, call, flags, message):
    words = job_words(tiny_encoder, tmp_path / "out", *flags, members="last3-42", folds=0)
    result = call(main, *words)
    assert result.code == 2
    assert message in result.err
    assert "Traceback" not in result.err


def test_duplicates_stay_in_one_fold(tiny_encoder, tmp_path, call):
    tweets_with_duplicates(tmp_path)
    recipe = recipe_of(tmp_path, one="{classifier: tfidf-logistic}")
    flags = {"train_file": tmp_path / "train.tsv", "max_train_samples": 500}
    flags |= {"fold_by": "stratified_group", "group_users": True}
    result = call(main, *job_words(tiny_encoder, tmp_path / "out", recipe=recipe, **flags))
    assert result.code == 0, result.err
    assert "in another fold" not in result.out
    folds = pd.read_parquet(tmp_path / "out" / "folds.parquet")
    numbers = folds["id"].str[1:]
    assert (folds.groupby(numbers)["fold_42"].nunique() == 1).all()


@pytest.mark.slow
def test_a_job_that_was_fetched_trains_without_a_network(hub, tiny_encoder, tmp_path):
    hub.add("team/tiny", tiny_encoder)
    words = job_words("team/tiny", tmp_path / "out", members="last3-42", folds=0)
    environment = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home")}
    fetched = train([*words, "--fetch"], env={**environment, "HF_HUB_OFFLINE": "0"})
    assert fetched.code == 0, fetched.err
    assert "team/tiny is here" in fetched.out
    assert "60 labelled tweets and 40 test tweets can be read" in fetched.out
    assert not (tmp_path / "out").exists()
    hub.shutdown()
    result = train(words, env={**environment, "HF_HUB_OFFLINE": "1"})
    assert result.code == 0, result.err
    assert (tmp_path / "out" / "last3-42" / "fold-0" / "DONE").exists()


@pytest.mark.slow
def test_without_a_fetch_the_missing_encoder_is_named(tmp_path):
    words = job_words("team/tiny", tmp_path / "out", members="last3-42", folds=0)
    environment = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    result = train(words, env=environment)
    assert result.code == 2
    assert "error: --model_name_or_path team/tiny can't be loaded" in result.err
    assert "Traceback" not in result.err


@pytest.mark.slow
def test_the_rare_recipe_runs_from_tweets_to_submission(tiny_encoder, tmp_path, call):
    """Thinned: two folds, two steps."""
    recipe = ROOT / "recipes" / "rare.yaml"
    result = call(main, *job_words(tiny_encoder, tmp_path / "out", recipe=recipe, n_folds=2, min_steps=2))
    assert result.code == 0, result.err
    stored = json.loads((tmp_path / "out" / "ensemble.json").read_text())
    assert len(stored["rule"]["members"]) == 6
    assert (tmp_path / "out" / "submission" / "prediction_task5.zip").exists()
    steps = json.loads((tmp_path / "out" / "last3-pooler-1" / "fold-0" / "metrics.json").read_text())["steps"]
    rare = (pd.read_parquet(tmp_path / "out" / "folds.parquet").query("fold_42 != 0")["label"] != "3").sum()
    assert steps == math.ceil(min(rare * 11, 30) / 16)


def test_a_refitted_run_trains_on_every_labelled_tweet_and_scores_none(tuned_job):
    for member in ("counts", "encoder"):
        folder = tuned_job.folder / member / "refit"
        metrics = json.loads((folder / "metrics.json").read_text())
        assert (metrics["training_tweets"], metrics["held_out_tweets"], metrics["fold"]) == (300, 0, None)
        assert "held_out" not in metrics
        assert not (folder / "held_out.parquet").exists()
        assert (folder / "DONE").exists()
        fold = json.loads((tuned_job.folder / member / "fold-0" / "metrics.json").read_text())
        assert fold["training_tweets"] == 240
    assert not (tuned_job.folder / "svm" / "refit").exists()


def test_list_has_no_held_out_score_of_a_refitted_run(tuned_job, call):
    result = call(main, *tuned_job.words, "--list")
    assert result.code == 0, result.err
    row = next(line for line in result.out.splitlines() if "encoder" in line and "refit" in line)
    assert row.split() == [row.split()[0], "encoder", "refit", "1", "done", "-"]
    assert "encoder refit  all tweets" in tuned_job.result.out


@pytest.mark.slow
def test_folds_that_are_named_leave_the_refitted_run_out_and_the_vote_waits_for_it(tiny_encoder, tmp_path, call):
    recipe = recipe_of(tmp_path, counts="{classifier: tfidf-logistic, refit: true}")
    words = job_words(tiny_encoder, tmp_path / "out", recipe=recipe, n_folds=2)
    first = call(main, *words, "--folds", "0", "1")
    assert first.code == 0, first.err
    assert "1 of 3 runs is missing, so there is no final vote yet" in first.out
    again = call(main, *words)
    assert again.code == 0, again.err
    assert "2 of 3 runs are done already" in again.out
    assert (tmp_path / "out" / "votes" / "final.tsv").exists()


@pytest.mark.slow
def test_keep_models_best_keeps_the_best_fold_and_the_refitted_run(tiny_encoder, tmp_path, call):
    recipe = recipe_of(tmp_path, counts="{classifier: tfidf-logistic, refit: true}")
    result = call(main, *job_words(tiny_encoder, tmp_path / "out", recipe=recipe, n_folds=2, keep_models="best"))
    assert result.code == 0, result.err
    kept = sorted(path.parent.name for path in (tmp_path / "out" / "counts").glob("*/model"))
    assert len(kept) == 2
    assert kept[1] == "refit"


@pytest.mark.slow
def test_of_damaged_runs_the_same_model_is_kept_as_best(tiny_encoder, tmp_path, call):
    recipe = recipe_of(tmp_path, counts="{classifier: tfidf-logistic}")
    words = job_words(tiny_encoder, tmp_path / "out", recipe=recipe, n_folds=2, keep_models="best")
    assert call(main, *words).code == 0
    (model,) = (tmp_path / "out" / "counts").glob("*/model")
    other = next(path for path in model.parents[1].glob("fold-*") if path != model.parent)
    before = {path.name: path.read_bytes() for path in model.iterdir()}
    weights, metrics = next(model.glob("*.npz"), next(model.iterdir())), other / "metrics.json"
    weights.write_bytes(weights.read_bytes()[:-9])
    metrics.write_text(re.sub(r'("average_precision": )[0-9.]+', r"\g<1>0.9999", metrics.read_text()))
    result = call(report.main, tmp_path / "out")
    assert result.code == 2
    assert f"error: {metrics} has " in result.err
    result = call(main, *words)
    assert result.code == 0, result.err
    assert f"note: {metrics} has " in result.out
    assert [path.parent for path in model.parents[1].glob("*/model")] == [model.parent]
    assert {path.name: path.read_bytes() for path in model.iterdir()} == before
