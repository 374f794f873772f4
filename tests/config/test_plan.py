"""Plans: a folder belongs to one recipe, task and data."""

import pandas as pd
import pytest
from conftest import all_files, job_words

from smm4h.cli.train import main
from smm4h.config.recipe import read_command_line
from smm4h.utils.leases import LeaseHolder


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
def test_a_folder_of_another_job_is_refused_and_left_alone(copied_job, call, tmp_path, flags, difference):
    if "DATA" in flags:
        lines = "tweet_id\tuser_id\tclass\ttweet\n" + "".join(f"{i}\t1\t{i % 2}\ttweet {i}\n" for i in range(80))
        for part in ("training", "validation"):
            (tmp_path / f"task2_en_{part}.tsv").write_text(lines)
        tests = "".join(f"{i}\t1\tx\ty\n" for i in range(10))  # enough for the pseudo labels of a fold
        (tmp_path / "task2_en_test_participant.tsv").write_text(f"tweet_id\tuser_id\ttweet\tcreated_at\n{tests}")
        flags[-1] = tmp_path
    before = all_files(copied_job.folder)
    result = call(main, *copied_job.words, *flags)
    assert result.code == 2
    assert difference in result.err
    assert "choose another --output_dir" in result.err
    assert all_files(copied_job.folder) == before


@pytest.fixture
def begun_words(tiny_encoder, tmp_path, call) -> list[str]:
    """The words of a job that was refused once its folder held plan, folds and token tables: its teachers miss."""
    words = job_words(tiny_encoder, tmp_path / "out", "--members", "bigru-clean-pseudo", "--folds", 0)
    result = call(main, *words)
    assert result.code == 2
    assert "needs pseudo labels" in result.err
    assert list((tmp_path / "out" / "tokens").glob("*.arrow"))
    words[words.index("bigru-clean-pseudo")] = "last3-42"
    return words


def test_a_folder_in_which_nothing_was_made_is_taken_over(begun_words, call, tmp_path):
    before = pd.read_parquet(tmp_path / "out" / "folds.parquet")
    result = call(main, *begun_words, "--max_train_samples", 70, "--max_seq_length", 20)
    assert result.code == 0, result.err
    assert "was begun with other settings and held no result" in result.out
    assert len(before) == 60
    assert len(pd.read_parquet(tmp_path / "out" / "folds.parquet")) == 70
    assert len(list((tmp_path / "out" / "tokens").glob("*.arrow"))) == 2
    assert (tmp_path / "out" / "last3-42" / "fold-0" / "DONE").exists()
    assert not list((tmp_path / "out").rglob("*.claim"))


def test_the_folder_of_a_job_that_runs_is_not_taken_over(begun_words, call, tmp_path):
    with LeaseHolder().try_acquire(tmp_path / "out" / ".plan.json.claim"):
        result = call(main, *begun_words, "--max_train_samples", 70)
        assert result.code == 2
        assert "was made with another data: data labelled was" in result.err
        result = call(main, *begun_words)  # a second job of the same plan joins in
        assert result.code == 0, result.err


def test_the_folder_of_a_run_that_is_trained_is_not_taken_over(begun_words, call, tmp_path):
    (tmp_path / "out" / "last3-42" / "fold-1").mkdir(parents=True)
    with LeaseHolder().try_acquire(tmp_path / "out" / "last3-42" / ".fold-1.claim"):
        result = call(main, *begun_words, "--max_train_samples", 70)
    assert result.code == 2
    assert "was made with another data: data labelled was" in result.err


def test_settings_without_effect_do_not_make_another_job(copied_job, call):
    result = call(main, *copied_job.words, "--logging_steps", 7, "--token", "hf_secret", "--list")
    assert result.code == 0, result.err
    with_token = read_command_line([*copied_job.words, "--token", "hf_secret"])
    assert with_token.shared_settings == read_command_line(copied_job.words).shared_settings
