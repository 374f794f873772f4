"""The command `predict` on tweets in any format."""

import gzip
import shutil
import subprocess
import sys

import pandas as pd
import pytest
import torch
from conftest import ROOT, TASK5

from smm4h.cli import predict
from smm4h.data.outputs.label_files import read_labels
from smm4h.data.readers.formats import read_tsv
from smm4h.parallel.environment import LaunchEnvironment


def frame_of(path):
    """Return a .tsv file's columns as strings."""
    table = read_tsv(path, None)
    return pd.DataFrame(dict(zip(table.names, table.columns, strict=True)))


@pytest.mark.parametrize("block", [1000, 7])
def test_labels_are_the_jobs_own_test_predictions(either_job, new_tweets, tmp_path, call, block):
    words = (either_job.folder, new_tweets, "--columns", "label", "--block", block)
    result = call(predict.main, *words, "--output", tmp_path / "labels.tsv")
    assert result.code == 0, result.err
    assert (tmp_path / "labels.tsv").read_bytes() == (either_job.folder / "votes" / "final.tsv").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["labels.tsv"]  # nothing is left over


def test_probability_margin_and_votes_can_be_written(tuned_job, new_tweets, tmp_path, call):
    columns = "label,probability,margin,votes"
    call(predict.main, tuned_job.folder, new_tweets, "--output", tmp_path / "all.tsv", "--columns", columns)
    table = frame_of(tmp_path / "all.tsv")
    assert table.columns.tolist() == ["tweet_id", "Class", "probability", "margin", "votes"]
    assert table["probability"].astype(float).between(0, 1).all()
    assert table["margin"].astype(float).between(0, 1).all()
    assert table["votes"].astype(int).between(0, 3).all()


def write_in_format(tweets, path):
    """Write a .tsv file's tweets in the format that a path's name says; without a suffix, as a folder of two files."""
    lines, table = tweets.read_bytes().splitlines(keepends=True), frame_of(tweets)[["tweet_id", "text"]]
    if path.suffix == ".csv":
        table.to_csv(path, index=False)
    elif path.suffix == ".jsonl":
        table.to_json(path, orient="records", lines=True, force_ascii=False)
    elif path.suffix == ".parquet":
        table.to_parquet(path)
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(tweets.read_bytes()))
    else:
        path.mkdir()
        (path / "a.tsv").write_bytes(b"".join(lines[:21]))
        (path / "b.tsv.gz").write_bytes(gzip.compress(lines[0] + b"".join(lines[21:])))
        (path / "notes.md").write_text("not tweets")


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.parquet", "t.tsv.gz", "folder"])
def test_the_same_tweets_in_any_format_get_the_same_labels(tuned_job, new_tweets, tmp_path, call, name):
    write_in_format(new_tweets, tmp_path / name)
    words = (tuned_job.folder, tmp_path / name, "--output", tmp_path / "labels.tsv", "--columns", "label")
    result = call(predict.main, *words, "--block", 15)
    assert result.code == 0, result.err
    assert (tmp_path / "labels.tsv").read_bytes() == (tuned_job.folder / "votes" / "final.tsv").read_bytes()


@pytest.mark.parametrize("name", ["labels.csv", "labels.parquet", "labels.tsv.gz"])
def test_an_output_in_the_input_folder_is_not_read_the_next_time(tuned_job, new_tweets, tmp_path, call, name):
    write_in_format(new_tweets, tmp_path / "tweets")
    words = [tuned_job.folder, tmp_path / "tweets", "--output"]
    assert call(predict.main, *words, tmp_path / "tweets" / name).code == 0
    first = (tmp_path / "tweets" / name).read_bytes()
    result = call(predict.main, *words, tmp_path / "tweets" / name, "--overwrite")
    assert result.code == 0, result.err
    assert f"{name} was left out: it holds labels that were predicted before" in result.err
    assert (tmp_path / "tweets" / name).read_bytes() == first
    result = call(predict.main, *words, tmp_path / "elsewhere.tsv")
    assert f"{name} was left out" in result.err
    assert len(frame_of(tmp_path / "elsewhere.tsv")) == 40


def test_a_file_of_the_input_folder_is_not_replaced(tuned_job, new_tweets, tmp_path, call):
    write_in_format(new_tweets, tmp_path / "tweets")
    (tmp_path / "link.tsv").symlink_to(tmp_path / "tweets" / "a.tsv")
    before = (tmp_path / "tweets" / "a.tsv").read_bytes()
    for output in (tmp_path / "tweets" / "a.tsv", tmp_path / "link.tsv"):
        result = call(predict.main, tuned_job.folder, tmp_path / "tweets", "--output", output, "--overwrite")
        assert result.code == 2
        assert f"--output {output} is {tmp_path / 'tweets' / 'a.tsv'}, which this command reads" in result.err
    assert (tmp_path / "tweets" / "a.tsv").read_bytes() == before


@pytest.mark.parametrize("name", ["l.csv", "l.jsonl", "l.parquet", "l.csv.gz", "l.tsv.gz"])
def test_labels_come_in_any_format(tuned_job, new_tweets, tmp_path, call, name):
    result = call(predict.main, tuned_job.folder, new_tweets, "--output", tmp_path / name, "--block", 15)
    assert result.code == 0, result.err
    kind = name.split(".")[1]
    read = {"csv": pd.read_csv, "jsonl": pd.read_json, "parquet": pd.read_parquet, "tsv": pd.read_table}[kind]
    options = {} if kind == "parquet" else {"dtype": str, **({"lines": True} if kind == "jsonl" else {})}
    table = read(tmp_path / name, **options)
    expected = read_labels(tuned_job.folder / "votes" / "final.tsv")
    assert table["tweet_id"].tolist() == expected.ids.to_pylist()
    assert table["Class"].tolist() == expected.labels.to_pylist()
    assert table.columns.tolist() == ["tweet_id", "Class", "probability"]


def test_pipes_carry_only_labels(tuned_job, new_tweets):
    words = [sys.executable, "predict.py", tuned_job.folder, "-", "--output", "-", "--columns", "label"]
    done = subprocess.run(
        [str(w) for w in words], cwd=ROOT, stdin=new_tweets.open("rb"), capture_output=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == (tuned_job.folder / "votes" / "final.tsv").read_bytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["new.tsv", "--output", "labels.xlsx"], "--output labels.xlsx: choose a name that ends in .tsv"),
        (["new.tsv", "--output", "l.parquet.gz"], "choose a name that ends in"),
        (["nowhere.tsv", "--output", "l.tsv"], "nowhere.tsv is not there"),
        (["new.tsv", "--output", "l.tsv", "--columns", "label,vote"], "--columns vote (did you mean votes?)"),
        (["new.docx", "--output", "l.tsv"], "new.docx is none of .tsv"),
        (["new.tsv", "--output", "l.tsv", "--text_column_name", "body"], "no column body among"),
    ],
)
def test_bad_input_is_one_sentence(tuned_job, new_tweets, tmp_path, call, monkeypatch, words, message):
    for name in ("new.tsv", "new.docx"):
        shutil.copy(new_tweets, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    result = call(predict.main, tuned_job.folder, *words)
    assert result.code == 2
    assert message in result.err
    assert {path.name for path in tmp_path.iterdir()} == {"new.tsv", "new.docx"}


def test_each_launched_process_predicts_on_a_gpu_of_its_own(monkeypatch):
    """Four processes, three of them on a machine with two GPUs."""
    taken = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: taken[-1])
    monkeypatch.setattr(predict, "set_threads", lambda threads: None)
    monkeypatch.setattr(predict, "clear_launcher_variables", lambda: None)

    def device(rank, *flags):
        launch = LaunchEnvironment(
            rank=rank,
            world_size=4,
            local_rank=rank % 3,
            local_world_size=3,
            use_cpu=False,
            sharded=None,
            parent=1,
        )
        return predict.take_device(launch, predict.read_arguments(["job", str(TASK5), "--output", "l.tsv", *flags]))

    assert [device(rank) for rank in range(4)] == ["cuda:0", "cuda:1", "cuda:0", "cuda:0"]
    assert device(1, "--use_cpu") == "cpu"
