"""The main job by its front door: 45 runs by two processes, votes, submission; again, refused, resumed, in parts."""

import itertools
import json
import shutil
import zipfile

import numpy as np
import pandas as pd
import pytest
from conftest import QUICKSTART, all_files, job_words, launch
from datasets import disable_progress_bars

import run_classification
from smm4h.config.recipe import read_command_line
from smm4h.data.duplicates import normalized_text
from smm4h.data.prediction_files import read_predictions
from smm4h.data.readers import read_tsv

disable_progress_bars()


@pytest.fixture
def copied(finished_job, tmp_path):
    """The finished job's folder to change at will, and the command that made it."""
    shutil.copytree(finished_job.folder, tmp_path / "task5")
    words = list(finished_job.words)
    words[words.index("--output_dir") + 1] = str(tmp_path / "task5")
    return tmp_path / "task5", words


def test_one_command_makes_45_runs_votes_and_a_submission(finished_job):
    assert finished_job.outcome.code == 0, finished_job.outcome.err
    assert len(list(finished_job.folder.glob("*/fold-*/DONE"))) == 45
    out = finished_job.outcome.out
    assert "run 45/45" in out
    for row in ("bigru-42", "last3-pooler-42", "bigru-clean-pseudo *", "stage-1 vote", "final vote"):
        assert row in out
    assert "min" in out
    assert "prediction_task5.zip" in out


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
            made = read_predictions(finished_job.folder / member / f"fold-{fold}" / "held_out.parquet")
            assert made.rows.tolist() == folds.index[folds[f"fold_{seed}"] == fold].tolist()
            assert made.ids.to_pylist() == folds["id"][made.rows].tolist()
            np.testing.assert_allclose(made.probabilities.sum(axis=1), 1.0, atol=1e-5)
            rows += made.rows.tolist()
        assert sorted(rows) == list(range(60))


def test_output_rows_are_input_rows_in_input_order(finished_job):
    ids = [line.split("\t")[0] for line in (QUICKSTART / "task5_test_participant.tsv").read_text().split("\n")[1:41]]
    assert len(set(ids)) == 39  # one id stands twice
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


def test_the_final_vote_is_the_majority_of_the_members_mean_probabilities(finished_job):
    members = sorted({path.parent.parent.name for path in finished_job.folder.glob("*/fold-0/DONE")})
    means = []
    for member in members:
        folds = [
            read_predictions(finished_job.folder / member / f"fold-{i}" / "test.parquet").probabilities
            for i in range(5)
        ]
        means.append(np.mean(folds, axis=0, dtype=float))
    means = np.stack(means)
    elected = []
    for tweet in range(means.shape[1]):
        counts = np.bincount(means[:, tweet].argmax(axis=1), minlength=3)
        leading = np.flatnonzero(counts == counts.max())
        elected.append(str(1 + leading[means[:, tweet].mean(axis=0)[leading].argmax()]))
    lines = (finished_job.folder / "votes" / "final.tsv").read_text().splitlines()[1:]
    assert [line.split("\t")[1] for line in lines] == elected


def test_each_fold_gets_another_tenth_of_the_stage_1_vote_without_twins_of_its_held_out_tweets(finished_job):
    votes = [
        line.split("\t")[1] for line in (finished_job.folder / "votes" / "stage1.tsv").read_text().splitlines()[1:]
    ]
    folds = pd.read_parquet(finished_job.folder / "folds.parquet")
    words = {}
    for part in ("training", "validation"):
        table = read_tsv(QUICKSTART / f"task5_{part}.tsv", None)
        words.update(zip(table.columns[0], map(normalized_text, table.columns[2]), strict=True))
    seen = []
    for fold in range(5):
        part = read_tsv(finished_job.folder / "pseudo_labels" / "seed-42" / f"fold-{fold}.tsv", None)
        assert part.names == ["row", "tweet_id", "user_id", "tweet", "class"]
        rows = [int(row) for row in part.columns[0]]
        assert len(rows) <= 4  # a tenth of 40
        assert part.columns[4] == [votes[row] for row in rows]
        held_out = {words[tweet_id] for tweet_id in folds["id"][folds["fold_42"] == fold]}
        assert not held_out & {normalized_text(text) for text in part.columns[3]}
        metrics = json.loads((finished_job.folder / "bigru-clean-pseudo" / f"fold-{fold}" / "metrics.json").read_text())
        assert metrics["pseudo_tweets"] == len(rows)
        assert metrics["training_tweets"] == 48 + len(rows)
        seen += rows
    assert len(seen) == len(set(seen)) > 0


def test_no_tweet_is_printed_or_written_outside_tokens_pseudo_labels_and_label_problems(finished_job):
    texts = [
        t for part in ("training", "validation") for t in read_tsv(QUICKSTART / f"task5_{part}.tsv", None).columns[2]
    ]
    pieces = {" ".join(text.split()[:5]) for text in texts if len(text.split()) > 5}
    shown = finished_job.outcome.out + finished_job.outcome.err
    for path in finished_job.folder.rglob("*"):
        if path.name == "label_problems.tsv":
            continue
        if path.is_file() and "pseudo_labels" not in path.parts and path.suffix in (".json", ".tsv", ".py", ""):
            shown += path.read_text(errors="replace")
    assert not [piece for piece in pieces if piece in shown]


@pytest.mark.slow
def test_the_same_command_again_trains_nothing(copied):
    folder, words = copied
    before, times = all_files(folder), {p: p.stat().st_mtime_ns for p in folder.glob("*/fold-*/DONE")}
    outcome = launch(1, words)
    assert outcome.code == 0, outcome.err
    assert "final vote" in outcome.out
    assert all_files(folder) == before
    assert {p: p.stat().st_mtime_ns for p in folder.glob("*/fold-*/DONE")} == times


@pytest.mark.slow
def test_what_is_missing_is_made_again_with_the_same_bytes_by_one_process(copied):
    """The fixture used two processes and another order of runs: neither may show."""
    folder, words = copied
    before = all_files(folder)
    for name in ("bigru-24/fold-3", "last2-pooler-clean-pseudo/fold-1"):
        shutil.rmtree(folder / name)
    for name in ("votes/stage1.tsv", "votes/final.tsv", "submission/prediction_task5.zip", "last3-42/fold-0/DONE"):
        (folder / name).unlink()
    shutil.rmtree(folder / "pseudo_labels")
    shutil.rmtree(folder / "tokens")
    outcome = launch(1, words)
    assert outcome.code == 0, outcome.err
    assert "42 of 45 runs are done already" in outcome.out
    assert all_files(folder) == before


@pytest.mark.parametrize(
    ("flags", "difference"),
    [
        (
            ["--learning_rate", "5e-5"],
            "another recipe: recipe members bigru-42 learning_rate was 0.0004 and is 5e-05 now",
        ),
        (["--max_train_samples", "80"], "another data: data labelled was"),
        (["--vote", "soft"], "another recipe: recipe shared vote was"),
        (["--task", "tasks/task2_en.yaml", "--data_dir", "DATA"], "another task"),
    ],
)
def test_a_folder_of_another_job_is_refused_and_left_alone(copied, call, tmp_path, flags, difference):
    folder, words = copied
    if "DATA" in flags:
        lines = "tweet_id\tuser_id\tclass\ttweet\n" + "".join(f"{i}\t1\t{i % 2}\ttweet {i}\n" for i in range(80))
        for part in ("training", "validation"):
            (tmp_path / f"task2_en_{part}.tsv").write_text(lines)
        (tmp_path / "task2_en_test_participant.tsv").write_text("tweet_id\tuser_id\ttweet\tcreated_at\n1\t1\tx\ty\n")
        flags[-1] = tmp_path
    before = all_files(folder)
    outcome = call(run_classification.main, *words, *flags)
    assert outcome.code == 2
    assert difference in outcome.err
    assert "choose another --output_dir" in outcome.err
    assert all_files(folder) == before


def test_settings_without_effect_are_no_other_job(copied, call):
    _, words = copied
    outcome = call(run_classification.main, *words, "--logging_steps", 7, "--token", "hf_secret", "--list")
    assert outcome.code == 0, outcome.err
    assert read_command_line(list(map(str, words))).shared_settings == {
        **read_command_line([*map(str, words), "--token", "hf_secret"]).shared_settings
    }


def test_list_shows_45_runs_and_trains_nothing(tiny_encoder, tmp_path, call, finished_job):
    outcome = call(run_classification.main, *job_words(tiny_encoder, tmp_path / "new"), "--list")
    assert "45 runs" in outcome.out
    assert "0 done, 0 running, 0 failed, 45 missing" in outcome.out
    assert not (tmp_path / "new").exists()
    outcome = call(run_classification.main, *finished_job.words, "--list", "--members", "bigru-24", "--folds", 1, 3)
    assert "2 runs" in outcome.out
    assert "2 done" in outcome.out


def test_members_and_folds_choose_runs_and_the_vote_waits(tiny_encoder, tmp_path, call):
    words = job_words(tiny_encoder, tmp_path / "part", "--members", "last3-42", "--token", "hf_secret")
    outcome = call(run_classification.main, *words, "--folds", 0, 2)
    assert outcome.code == 0, outcome.err
    assert sorted(p.parent.name for p in (tmp_path / "part").glob("*/*/DONE")) == ["fold-0", "fold-2"]
    assert "43 of 45 runs are missing, so there is no final vote yet" in outcome.out
    assert not (tmp_path / "part" / "votes").exists()
    assert "hf_secret" not in (tmp_path / "part" / "plan.json").read_text()
    words[words.index("last3-42")] = "bigru-clean-pseudo"
    outcome = call(run_classification.main, *words)
    assert outcome.code == 2
    assert "bigru-clean-pseudo needs pseudo labels, and 28 runs of their teachers are missing" in outcome.err


def test_own_data_in_other_formats_without_test_tweets(tiny_encoder, tmp_path, call):
    rng = np.random.default_rng(0)
    rows = [
        {
            "id": str(i),
            "author": f"u{i % 9}",
            "text": f"tweet {i} {rng.integers(99)}",
            "label": ["none", "side_effect"][i % 4 == 0],
        }
        for i in range(40)
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("members:\n  one: {head: last3, max_seq_length: 16}\n")
    words = [
        recipe,
        "--task",
        "tasks/own_data.yaml",
        "--train_file",
        tmp_path / "a.jsonl",
        "--output_dir",
        tmp_path / "out",
    ]
    words += ["--model_name_or_path", tiny_encoder, "--n_folds", 2, "--num_train_epochs", 1, "--keep_models", "none"]
    outcome = call(run_classification.main, *words)
    assert outcome.code == 0, outcome.err
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert scores["one"]["out_of_fold"]["interval"]
    assert scores["one"]["test"] is None
    assert not (tmp_path / "out" / "one" / "fold-0" / "model").exists()
    assert (tmp_path / "out" / "one" / "fold-0" / "held_out.parquet").exists()


def test_another_test_file_is_not_scored_by_the_official_gold(tiny_encoder, tmp_path, call):
    (tmp_path / "other.tsv").write_text("tweet_id\tuser_id\ttext\n5\tu\tmy son\n6\tu\tno son\n")
    words = job_words(tiny_encoder, tmp_path / "out", "--members", "last3-42", "--test_file", tmp_path / "other.tsv")
    outcome = call(run_classification.main, *words)
    assert outcome.code == 0, outcome.err
    assert json.loads((tmp_path / "out" / "scores.json").read_text())["last3-42"]["test"] is None
    assert read_predictions(tmp_path / "out" / "last3-42" / "fold-0" / "test.parquet").ids.to_pylist() == ["5", "6"]


def test_a_data_set_of_the_hub_is_read_by_its_splits(tiny_encoder, tmp_path, call):
    """A folder stands in for the Hub: `load_dataset` reads both alike."""
    (tmp_path / "data").mkdir()
    frame = pd.DataFrame({"id": range(10**17, 10**17 + 40), "text": [f"tweet {i}" for i in range(40)]})
    frame["label"] = ["side_effect" if i % 4 == 0 else "none" for i in range(40)]
    frame[:30].to_csv(tmp_path / "data" / "train.csv", index=False)
    frame[30:].to_csv(tmp_path / "data" / "test.csv", index=False)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("members:\n  one: {head: last3, max_seq_length: 16, bf16: false}\n")
    words = [
        recipe,
        "--task",
        "tasks/own_data.yaml",
        "--dataset_name",
        tmp_path / "data",
        "--output_dir",
        tmp_path / "out",
    ]
    words += [
        "--model_name_or_path",
        tiny_encoder,
        "--n_folds",
        2,
        "--num_train_epochs",
        1,
        "--cache_dir",
        tmp_path / "cache",
    ]
    outcome = call(run_classification.main, *words)
    assert outcome.code == 0, outcome.err
    lines = (tmp_path / "out" / "votes" / "final.tsv").read_text().splitlines()[1:]
    assert [line.split("\t")[0] for line in lines] == [str(i) for i in frame["id"][30:]]


def test_a_folder_that_can_not_be_written_is_named(tiny_encoder, tmp_path, call, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied", "out/plan.json")

    monkeypatch.setattr("smm4h.utils.files.tempfile.mkstemp", refuse)
    outcome = call(run_classification.main, *job_words(tiny_encoder, tmp_path / "out"))
    assert outcome.code == 2
    assert "error: Permission denied (out/plan.json)" in outcome.err


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
    words = job_words(tiny_encoder, tmp_path / "out", "--members", "last3-42", "--folds", 0)
    outcome = call(run_classification.main, *words, *flags)
    assert outcome.code == 2
    assert message in outcome.err
    assert "Traceback" not in outcome.err
