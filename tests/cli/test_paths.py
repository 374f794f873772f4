"""Paths as people write them: outputs that are inputs, homes, brackets, folders in the place of files."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import INVENTED, RECIPE, ROOT, TASK5, job_words, shell
from tweet_files import UNLABELLED_HEADER, write_labels

from smm4h.cli import distill, predict, pseudo_label, publish, report, train, vote
from smm4h.utils.leases import sole_writer

TWEETS = UNLABELLED_HEADER + "11\tu\twords\n12\tv\tmore words\n"


@pytest.fixture
def tweets(tmp_path):
    path = tmp_path / "tweets" / "new.tsv"
    path.parent.mkdir()
    path.write_text(TWEETS, encoding="utf-8")
    return path


@pytest.fixture
def job(tmp_path):
    """What tells a job's folder."""
    folder = tmp_path / "job"
    folder.mkdir()
    (folder / "plan.json").write_text("{}", encoding="utf-8")
    return folder


def other_names(path: Path, folder: Path) -> list[Path]:
    """Return further names of a file: another spelling, a symbolic link and a hard link."""
    (folder / "symbolic.tsv").symlink_to(path)
    (folder / "hard.tsv").hardlink_to(path)
    return [path, path.parent / ".." / path.parent.name / path.name, folder / "symbolic.tsv", folder / "hard.tsv"]


def assert_refused(result, *words: str) -> None:
    assert result.code == 2
    assert "Traceback" not in result.err
    assert result.err.count("\n") == 1
    for word in words:
        assert word in result.err


# Outputs that are inputs


def test_predict_replaces_no_tweets(tweets, job, tmp_path, call):
    for output in other_names(tweets, tmp_path):
        result = call(predict.main, job, tweets, "--output", output)
        assert_refused(result, f"--output {output} is {tweets}, which this")
        assert tweets.read_text(encoding="utf-8") == TWEETS


@pytest.mark.parametrize("name", ["votes/final.tsv", "OUT_OF_FOLD.parquet", "last3/fold-0/x.tsv", ".x.tsv"])
def test_predict_replaces_nothing_of_a_job(tweets, job, tmp_path, call, name):
    (job / "plan.json").write_text('{"recipe": {"members": {"last3": {}}}}', encoding="utf-8")
    (tmp_path / "link").symlink_to(job)
    for output in (job / name, tmp_path / "link" / name):
        result = call(predict.main, job, tweets, "--output", output)
        assert_refused(result, f"--output {output} would replace a part of {job}, a job's folder; choose another name")
    assert [path.name for path in job.iterdir()] == ["plan.json"]


def test_predict_replaces_no_tweets_that_are_redirected_to_it(tweets, job):
    words = [sys.executable, "predict.py", job, "-", "--output", tweets]
    with tweets.open("rb") as stream:
        done = subprocess.run([str(word) for word in words], cwd=ROOT, stdin=stream, capture_output=True, text=True)
    assert done.returncode == 2
    assert f"--output {tweets} is standard input" in done.stderr
    assert tweets.read_text(encoding="utf-8") == TWEETS


def test_a_vote_replaces_no_ballot_gold_or_task(tmp_path, call):
    ballot, gold = write_labels(tmp_path / "a.tsv", "12"), write_labels(tmp_path / "gold.tsv", "11")
    task = tmp_path / "task.tsv"
    task.write_bytes(TASK5.read_bytes())
    before = {path: path.read_bytes() for path in (ballot, gold, task)}
    for path in (gold, task, *other_names(ballot, tmp_path)):
        result = call(vote.main, ballot, "--gold", gold, "--task", task, "--output", path)
        assert_refused(result, f"--output {path} is ", "which this command reads; name another file")
    assert all(path.read_bytes() == content for path, content in before.items())


def test_pseudo_labels_replace_no_tweets(tweets, tmp_path, call):
    (tmp_path / "votes").mkdir()
    ballot = write_labels(tmp_path / "votes" / "vote.tsv", "12", ["11", "12"])
    words = [ballot, "--tweets", tweets, "--task", TASK5, "--data_dir", INVENTED, "--output_dir"]
    for given in (tweets.parent / "fold-1.tsv", tweets.parent / "fold-4.tsv"):
        tweets.rename(given)
        words[2] = given
        result = call(pseudo_label.main, *words, tweets.parent)
        assert_refused(result, f"--output_dir {given} is {given}, which this command reads")
        given.rename(tweets)
    words[2] = tweets.parent
    assert_refused(
        call(pseudo_label.main, *words, tweets.parent), f"is {tweets.parent}, whose files this command reads"
    )
    assert_refused(call(pseudo_label.main, *words, tweets), f"--output_dir {tweets} is a file, where a folder is")
    assert_refused(call(pseudo_label.main, *words, tweets / "out"), f"because {tweets} is a file and no folder")
    assert tweets.read_text(encoding="utf-8") == TWEETS


def test_a_job_is_published_to_a_place_outside_of_it(job, tmp_path, call):
    student = job / "student"
    student.mkdir()
    for source in (job, student):
        for folder in (job / "published", job / "a" / "b", student / "published"):
            assert_refused(call(publish.main, source, "--to_folder", folder), f"--to_folder {folder} lies in ")
    assert_refused(call(publish.main, job, "--to_folder", job), f"--to_folder {job} ")
    assert_refused(call(publish.main, job, "--to_folder", job / "plan.json"), "is a file, where a folder is expected")
    assert sorted(path.name for path in job.iterdir()) == ["plan.json", "student"]


def test_a_job_is_trained_into_no_file_and_into_no_folder_of_inputs(tiny_encoder, tweets, tmp_path, call):
    (tmp_path / "data").symlink_to(INVENTED)
    for folder, message in (
        (tweets, "is a file, where a folder is expected; name another place"),
        (tweets / "out", f"can't be written, because {tweets} is a file and no folder"),
        (tmp_path / "data", f"is {INVENTED}, which this command reads; name another folder"),
        (tiny_encoder, f"is {tiny_encoder}, which this command reads; name another folder"),
    ):
        assert_refused(call(train.main, *job_words(tiny_encoder, folder)), f"--output_dir {folder} {message}")


# Outputs that are there already


def test_what_is_there_is_replaced_only_with_overwrite(tweets, tmp_path, call):
    ballot = write_labels(tmp_path / "a.tsv", "12", ["11", "12"])
    parts = tmp_path / "parts"
    commands = (
        (tmp_path / "v.csv", [vote.main, ballot, "--output", tmp_path / "v.csv"]),
        (parts / "fold-1.tsv", [pseudo_label.main, ballot, "--tweets", tweets, "--task", TASK5, "--output_dir", parts]),
    )
    for output, words in commands:
        output.parent.mkdir(exist_ok=True)
        output.write_text("kept", encoding="utf-8")
        assert_refused(call(*words), f" {output} is there already; name another place, or replace it with --overwrite")
        assert output.read_text(encoding="utf-8") == "kept"
        result = call(*words, "--overwrite")
        assert result.code == 0, result.err
        assert output.read_text(encoding="utf-8") != "kept"
    for words in ([vote.main, ballot, "--output", ballot], [predict.main, "job", tweets, "--output", tweets]):
        assert_refused(call(*words, "--overwrite"), "which this command reads")


def test_a_device_and_a_pipe_are_no_outputs(tweets, tmp_path, call):
    ballot = write_labels(tmp_path / "a.tsv", "12")
    for name in ("fifo.tsv", "link.tsv"):
        (tmp_path / "link.tsv").symlink_to("/dev/null") if name == "link.tsv" else os.mkfifo(tmp_path / name)
        for words in ([vote.main, ballot], [predict.main, tmp_path, tweets]):
            assert_refused(call(*words, "--output", tmp_path / name, "--overwrite"), "is a device or a pipe")


def test_a_student_and_a_publication_are_replaced_only_with_overwrite(job, tmp_path, call):
    (tmp_path / "student.json").write_text("{}", encoding="utf-8")
    words = [distill.main, job, "--model_name_or_path", "x", "--output_dir"]
    assert_refused(call(*words, tmp_path), "holds a student already; name another folder, or replace it with --over")
    for folder in (job, job / "votes"):
        assert_refused(call(*words, folder, "--overwrite"), f"--output_dir {folder} ")
    place = tmp_path / "published"
    place.mkdir()
    assert_refused(call(publish.main, job, "--to_folder", place, "--overwrite"), "and no earlier publication")
    for name in ("README.md", "config.json"):
        (place / name).write_text("{}", encoding="utf-8")
    assert_refused(call(publish.main, job, "--to_folder", place), "is there already", "--overwrite")


def test_of_two_commands_at_once_on_one_folder_the_second_one_says_so(job, tmp_path, call):
    folder = tmp_path / "new"
    for words in (
        [distill.main, job, "--model_name_or_path", "x", "--output_dir", folder],
        [publish.main, job, "--to_folder", folder],
    ):
        with sole_writer(folder):
            assert_refused(call(*words), f"another command is writing {folder}")
        assert not folder.exists()


def test_an_output_whose_name_is_empty_is_refused_not_taken_for_this_folder(job, tweets, tmp_path, call, monkeypatch):
    """As where a variable of the shell is not set."""
    monkeypatch.chdir(tmp_path)
    words = [distill.main, job, "--model_name_or_path", "x"]
    assert_refused(call(*words, "--output_dir", ""), "--output_dir is empty")
    assert_refused(call(*words, "--output_dir="), "--output_dir is empty")
    assert_refused(call(publish.main, job, "--to_folder", " "), "--to_folder is empty")
    assert_refused(call(publish.main, job, "--hub_model_id", ""), "--hub_model_id is empty")
    assert_refused(call(report.main, ""), "an argument is empty")
    assert_refused(call(train.main, RECIPE, "--task", TASK5, "--output_dir", ""), "name the folder for the results")


# Paths that lead nowhere


def words_with(path, tmp_path, job):
    """Return commands that read or write a path, by name."""
    ballot, tweets, parts = write_labels(tmp_path / "ballot.tsv", "12"), tmp_path / "t.tsv", tmp_path / "parts"
    tweets.write_text(TWEETS, encoding="utf-8")
    return {
        "vote reads": (vote.main, path, "--output", tmp_path / "v.tsv"),
        "vote writes": (vote.main, ballot, "--output", path),
        "vote's gold": (vote.main, ballot, "--output", tmp_path / "v.tsv", "--task", TASK5, "--gold", path),
        "vote's task": (vote.main, ballot, "--output", tmp_path / "v.tsv", "--task", path),
        "pseudo reads": (pseudo_label.main, path, "--tweets", tweets, "--task", TASK5, "--output_dir", parts),
        "pseudo's task": (
            pseudo_label.main,
            ballot,
            "--tweets",
            tweets,
            "--task",
            path,
            "--output_dir",
            tmp_path / "o",
        ),
        "predict reads": (predict.main, job, path, "--output", tmp_path / "l.tsv"),
        "predict writes": (predict.main, job, tweets, "--output", path),
        "predict's job": (predict.main, path, tweets, "--output", tmp_path / "l.tsv"),
        "publish reads": (publish.main, path, "--to_folder", tmp_path / "new"),
        "publish writes": (publish.main, job, "--to_folder", path),
        "report": (report.main, path),
        "train": (train.main, path, "--task", TASK5, "--output_dir", tmp_path / "run"),
    }


COMMANDS = (
    *("vote reads", "vote writes", "vote's gold", "vote's task", "pseudo reads", "pseudo's task", "predict reads"),
    *("predict writes", "predict's job", "publish reads", "publish writes", "report", "train"),
)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_path_that_leads_nowhere_is_one_sentence(command, job, tmp_path, call):
    (tmp_path / "file.tsv").write_text("x\ty\n", encoding="utf-8")
    (tmp_path / "loop.tsv").symlink_to(tmp_path / "loop.tsv")
    (tmp_path / "folder.tsv").mkdir()
    for name in ("file.tsv/below.tsv", f"{'long' * 100}.tsv", "loop.tsv", "folder.tsv"):
        if (command, name) != ("vote writes", "loop.tsv"):  # a link that leads nowhere is replaced
            main, *words = words_with(tmp_path / name, tmp_path, job)[command]
            assert_refused(call(main, *words))


# Names with brackets, colons and homes


@pytest.mark.parametrize("name", ["[old]", "[/old]", "a [b", ":100:", "$a$_{b}"])
def test_brackets_and_codes_in_paths_and_labels_are_printed_as_they_are(tmp_path, call, name):
    folder = tmp_path / "x" / name
    folder.mkdir(parents=True)
    label = "[/red]:smile:"
    task = tmp_path / "task.yaml"
    task.write_text(f"name: '{name}'\nlabels: [no one, '{label}']\ncolumns: {{text: t, label: l}}\n", encoding="utf-8")
    ballot = write_labels(folder / "a.tsv", ["no one", label])
    words = [ballot, "--output", folder / "v.tsv", "--task", task, "--gold", ballot]
    result = call(vote.main, *words)
    assert result.code == 0, result.err
    shown = result.out.replace("\n", "")  # lines are broken at the width of a log
    assert f"no one: 1, {label}: 1" in shown
    assert f"written to {folder}/v.tsv" in shown
    assert f"{name}, {ballot}" in result.out


def test_a_home_is_known_in_every_flag(tmp_path, call, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    write_labels(tmp_path / "a.tsv", "12")
    result = call(vote.main, "~/a.tsv", "--output=~/v.tsv", "--gold=~/a.tsv", f"--task={TASK5}")
    assert result.code == 0, result.err
    assert (tmp_path / "v.tsv").read_bytes() == (tmp_path / "a.tsv").read_bytes()
    assert_refused(call(predict.main, "~/job", "~/none.tsv", "--output=~/l.tsv"), f"{tmp_path}/none.tsv is not there")
    assert_refused(call(report.main, "~/job"), f"{tmp_path}/job is not a job's output folder")
    assert not (tmp_path / "~").exists()


def test_a_terminal_of_another_encoding_shows_names_in_ascii(tmp_path):
    ballot = write_labels(tmp_path / "кошка.tsv", ["собака", "b"])
    words = [sys.executable, "ensemble.py", ballot, "--output", tmp_path / "v.tsv", "--overwrite"]
    for name in ("ascii", "cp1252"):
        result = shell(*words, env={"PYTHONIOENCODING": name})
        assert result.code == 0, result.err
        assert "written to" in result.out
    assert "\\u0441" in result.out


def test_a_long_name_that_the_file_system_allows_is_written(tmp_path, call):
    for name in (f"{'v' * 240}.tsv", f"{'é' * 110}.csv.gz"):
        result = call(vote.main, write_labels(tmp_path / "a.tsv", "12"), "--output", tmp_path / name)
        assert result.code == 0, result.err
        assert (tmp_path / name).is_file()
