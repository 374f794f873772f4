"""A prediction that was interrupted goes on with the same tweets, reading and weights only, or begins anew."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
from conftest import ROOT, start, wait_for

from smm4h.cli.predict import main
from smm4h.data.outputs.label_files import read_labels
from smm4h.data.streaming import read_blocks
from smm4h.inference.partial_predictions import PartialPredictions, _signed, parts_folder, reading_of
from smm4h.inference.predictor import load_predictor
from smm4h.utils.durable import hash_files, listing, read_checked_json, write_checked_json
from smm4h.utils.files import beside
from smm4h.utils.leases import LeaseHolder

FORGED = "forged"


class Interrupted:
    """A prediction of 40 tweets, of which one block of 10 is there, its labels forged to be known again."""

    def __init__(self, job: Path, tweets: Path, folder: Path) -> None:
        self.job, self.tweets, self.output = folder / "job", folder / "new.tsv", folder / "labels.tsv"
        shutil.copytree(job, self.job)
        rows = [line.split("\t")[:3] for line in tweets.read_text().splitlines()]
        self.tweets.write_text("".join("\t".join([*row, "note"]) + "\n" for row in rows))
        os.utime(self.tweets, (1e9, 1e9))
        predictor, task, files = load_predictor(str(self.job), "cpu")
        parts, _ = PartialPredictions.open(
            parts_folder(str(self.output)), [self.tweets], files, reading_of(task, None, 10), is_main_process=True
        )
        blocks = list(islice(read_blocks([self.tweets], task, 10), 1))
        parts.predict_missing(blocks, predictor, LeaseHolder(), lambda block: None)
        self.forge(parts.path(0))

    def forge(self, block: Path, label: str = FORGED, sign: Callable = _signed) -> None:
        table = pa.parquet.read_table(block)
        forged = table.set_column(1, "label", pa.array([label] * len(table)))
        pa.parquet.write_table(sign(forged), block)

    def words(self, **flags) -> list:
        named = {"output": self.output, "block": 10, **flags}
        return [self.job, self.tweets, *(word for name, value in named.items() for word in (f"--{name}", value))]

    def labels(self) -> list[str]:
        return read_labels(self.output).labels.to_pylist()


@pytest.fixture
def interrupted(tuned_job, new_tweets, tmp_path) -> Interrupted:
    return Interrupted(tuned_job.folder, new_tweets, tmp_path)


def replace_keeping_size_and_time(path: Path, old: bytes, new: bytes) -> None:
    status, content = path.stat(), path.read_bytes()
    assert old in content
    assert len(old) == len(new)
    path.write_bytes(content.replace(old, new, 1))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def change_a_tweet(job: Interrupted) -> dict:
    text = job.tweets.read_bytes().splitlines()[1].split(b"\t")[2]
    replace_keeping_size_and_time(job.tweets, text, b"x" * len(text))
    return {}


def damage_weights(job: Interrupted) -> Path:
    """Change the last weights of a run, and return its folder."""
    weights = next(job.job.glob("encoder/fold-1/model/*.safetensors"))
    end = weights.read_bytes()[-8:]
    replace_keeping_size_and_time(weights, end, bytes(8))
    return weights.parents[1]


def change_weights(job: Interrupted) -> dict:
    """Leave a run as one that was made again, whose DONE lists the files that are there now."""
    run = damage_weights(job)
    record = read_checked_json(run / "DONE")
    write_checked_json(run / "DONE", {**record, "files": listing(run, [run / name for name in record["files"]])})
    return {}


def another_file_of_that_name(job: Interrupted) -> dict:
    (job.tweets.parent / "other").mkdir()
    lines = job.tweets.read_text().splitlines()
    job.tweets = job.tweets.parent / "other" / "new.tsv"
    job.tweets.write_text("\n".join([lines[0], *reversed(lines[1:])]))
    return {}


CHANGES = {
    "the text column": lambda job: {"text_column_name": "note"},
    "the id column": lambda job: {"id_column_name": "user_id"},
    "the encoding": lambda job: {"encoding": "latin-1"},
    "the block": lambda job: {"block": 20},
    "a tweet": change_a_tweet,
    "weights": change_weights,
    "another file": another_file_of_that_name,
}


@pytest.mark.parametrize("change", CHANGES)
def test_with_anything_changed_it_begins_anew_and_says_so(interrupted, call, change):
    flags = CHANGES[change](interrupted)
    result = call(main, *interrupted.words(**flags))
    assert result.code == 0, result.err
    assert f"{parts_folder(str(interrupted.output))} was begun" in result.err
    assert "it is begun anew" in result.err
    assert FORGED not in interrupted.labels()
    assert len(interrupted.labels()) == 40


def test_damaged_weights_predict_nothing_and_cost_nothing(interrupted, call):
    run = damage_weights(interrupted)
    result = call(main, *interrupted.words())
    assert result.code == 2
    assert f"{run}/model/" in result.err
    assert "has another content than was written" in result.err
    assert not interrupted.output.exists()
    assert (parts_folder(str(interrupted.output)) / "00000000.parquet").is_file()


def copy_of_all(job: Interrupted) -> dict:
    """Files of other inodes and times with the same content."""
    for path in (job.job, job.tweets):
        copy = shutil.copytree if path.is_dir() else shutil.copy
        copy(path, path.with_name("copy"))
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        path.with_name("copy").rename(path)
    return {}


@pytest.mark.parametrize("change", [lambda job: {}, copy_of_all, lambda job: {"columns": "label,votes"}])
def test_with_the_same_content_it_goes_on(interrupted, call, change):
    flags = change(interrupted)
    result = call(main, *interrupted.words(**flags))
    assert result.code == 0, result.err
    assert "anew" not in result.err
    assert interrupted.labels()[:10] == [FORGED] * 10
    assert FORGED not in interrupted.labels()[10:]


def test_a_block_whose_rows_were_changed_is_predicted_again(interrupted, call):
    """Parquet reads a changed bit as another label or probability."""
    block = parts_folder(str(interrupted.output)) / "00000000.parquet"
    interrupted.forge(block, "changed", sign=lambda table: table)
    assert pa.parquet.read_table(block).column("label").to_pylist() == ["changed"] * 10
    assert call(main, *interrupted.words()).code == 0
    assert {"changed", FORGED}.isdisjoint(interrupted.labels())


@pytest.mark.parametrize("damage", [lambda content: b"", lambda content: content[:-20], lambda content: b"\0" * 900])
def test_a_damaged_block_is_predicted_anew(interrupted, call, damage):
    block = parts_folder(str(interrupted.output)) / "00000000.parquet"
    block.write_bytes(damage(block.read_bytes()))
    result = call(main, *interrupted.words())
    assert result.code == 0, result.err
    assert FORGED not in interrupted.labels()
    assert len(interrupted.labels()) == 40


def test_a_hash_is_taken_over_only_where_the_file_system_says_that_nothing_changed(tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.write_bytes(b"one")
    monkeypatch.setattr("smm4h.utils.durable.SETTLED", 0.0)
    first = hash_files({"a": path})
    forged = {"a": {**first["a"], "sha256": FORGED}}
    assert hash_files({"a": path}, forged) == forged
    replace_keeping_size_and_time(path, b"one", b"two")
    assert hash_files({"a": path}, forged)["a"]["sha256"] == hash_files({"a": path})["a"]["sha256"] != FORGED
    monkeypatch.undo()
    assert hash_files({"a": path})["a"]["stat"] is None  # written a moment ago: a change now might have the same time


def test_two_commands_do_not_write_one_output(interrupted, call):
    with LeaseHolder().try_acquire(beside(interrupted.output, ".claim")):
        result = call(main, *interrupted.words())
    assert result.code == 2
    assert f"another command is writing {interrupted.output}" in result.err
    assert parts_folder(str(interrupted.output)).is_dir()


def test_an_output_is_replaced_only_when_asked(interrupted, call):
    interrupted.output.write_text("kept")
    result = call(main, *interrupted.words())
    assert result.code == 2
    assert "is there already; name another place, or replace it with --overwrite" in result.err
    assert interrupted.output.read_text() == "kept"
    result = call(main, *interrupted.words(), "--overwrite")
    assert result.code == 0, result.err
    assert interrupted.labels()[:10] == [FORGED] * 10  # what was begun goes on


def test_nothing_of_a_pipe_stays_behind(tuned_job, new_tweets, tmp_path, call, monkeypatch):
    """Closed by `head`, and killed, after which the next command cleans up."""
    words = [sys.executable, "predict.py", tuned_job.folder, "-", "--output"]
    (tmp_path / "temporary").mkdir()
    environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary")}
    command = f"cat {new_tweets} | {' '.join(map(str, words))} - --block 5 | head -n 0"
    done = subprocess.run(command, shell=True, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "temporary").glob("*smm4h*"))
    output = tmp_path / "labels.tsv"
    os.mkfifo(tmp_path / "pipe")
    job = start(["bash", "-c", f"exec {' '.join(map(str, words))} {output} < {tmp_path}/pipe"])
    with (tmp_path / "pipe").open("wb") as pipe:
        pipe.write(new_tweets.read_bytes())
        pipe.flush()
        assert wait_for(lambda: list(tmp_path.glob(".smm4h*/tweets.tsv")), 120)
        (folder,) = tmp_path.glob(".smm4h*")
        assert folder.stat().st_mode & 0o077 == 0
        job.kill()
        job.wait(60)
    assert folder.exists()
    with new_tweets.open() as piped:
        monkeypatch.setattr("sys.stdin", piped)
        result = call(main, tuned_job.folder, "-", "--output", output)
    assert result.code == 0, result.err
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_nothing_of_an_input_without_tweets_stays_behind(tuned_job, new_tweets, tmp_path, call):
    (tmp_path / "empty.tsv").write_text(new_tweets.read_text().splitlines()[0] + "\n")
    result = call(main, tuned_job.folder, tmp_path / "empty.tsv", "--output", tmp_path / "labels.tsv")
    assert result.code == 2
    assert "empty.tsv holds no tweet" in result.err
    assert [path.name for path in tmp_path.iterdir()] == ["empty.tsv"]
