"""predict.py: the finished ensemble on new tweets, in any format, killed and resumed, by one process or two."""

import gzip
import json
import shutil
import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import QUICKSTART, ROOT, session_of, shell, start, wait_for

import predict
from smm4h.config.plan import read_plan
from smm4h.config.task import read_task
from smm4h.data.prediction_files import read_labels
from smm4h.data.readers import read_tsv
from smm4h.data.streaming import read_blocks
from smm4h.ensemble.fitted_ensemble import FittedEnsemble
from smm4h.ensemble.member_predictions import mean_predictions
from smm4h.inference import predictor
from smm4h.models import predictors
from smm4h.parallel.environment import LaunchEnvironment

TEST = QUICKSTART / "task5_test_participant.tsv"
TASK = read_task(ROOT / "tasks" / "task5.yaml")


@pytest.fixture(scope="module")
def new(tmp_path_factory):
    """The 40 tweets that the finished jobs predicted."""
    path = tmp_path_factory.mktemp("new") / "new.tsv"
    path.write_bytes(b"".join(TEST.read_bytes().splitlines(keepends=True)[:41]))
    return path


def frame_of(path):
    table = read_tsv(path, None)
    return pd.DataFrame(dict(zip(table.names, table.columns, strict=True)))


@pytest.fixture(params=["finished_job", "tuned_job"])
def job(request):
    return request.getfixturevalue(request.param).folder


@pytest.mark.parametrize("block", [1000, 7])
def test_labels_are_the_jobs_own_test_predictions(job, new, tmp_path, call, block):
    outcome = call(predict.main, job, new, "--output", tmp_path / "labels.tsv", "--columns", "label", "--block", block)
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "labels.tsv").read_bytes() == (job / "votes" / "final.tsv").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["labels.tsv"]  # nothing is left over


def test_probability_margin_and_votes_say_how_sure_the_ensemble_is(tuned_job, new, tmp_path, call):
    columns = "label,probability,margin,votes"
    call(predict.main, tuned_job.folder, new, "--output", tmp_path / "all.tsv", "--columns", columns)
    found = frame_of(tmp_path / "all.tsv")
    assert found.columns.tolist() == ["tweet_id", "Class", "probability", "margin", "votes"]
    assert found["probability"].astype(float).between(0, 1).all()
    assert found["margin"].astype(float).between(0, 1).all()
    assert found["votes"].astype(int).between(0, 3).all()


def test_a_job_in_plain_float32_is_answered_in_float32(finished_job, new, tmp_path, call, monkeypatch):
    monkeypatch.setattr(predictors, "has_bf16", lambda device: True)  # else this would say little where no CPU has it
    plan, _ = read_plan(finished_job.folder)
    assert plan.runs[0].member.get("bf16") is False
    call(predict.main, finished_job.folder, new, "--output", tmp_path / "labels.parquet")
    ensemble = FittedEnsemble.read(plan.ensemble_file)
    ballots = mean_predictions(plan.runs, mean=ensemble.rule.mean)
    own = ensemble.rule.combine(ballots.probabilities)[np.arange(40), ensemble.predict(ballots)]
    np.testing.assert_allclose(pd.read_parquet(tmp_path / "labels.parquet")["probability"], own, atol=1e-6)


def texts_and_ids(new):
    table = read_tsv(new, None)
    return table.columns[0], table.columns[2]


def write_csv(path, new):
    ids, texts = texts_and_ids(new)
    pd.DataFrame({"tweet_id": ids, "text": texts}).to_csv(path, index=False)


def write_jsonl(path, new):
    ids, texts = texts_and_ids(new)
    rows = [json.dumps({"tweet_id": i, "text": t}) for i, t in zip(ids, texts, strict=True)]
    path.write_text("\n".join(rows) + "\n")


def write_parquet(path, new):
    ids, texts = texts_and_ids(new)
    pd.DataFrame({"tweet_id": ids, "text": texts}).to_parquet(path)


def write_gz(path, new):
    path.write_bytes(gzip.compress(new.read_bytes()))


def write_folder(path, new):
    lines = new.read_bytes().splitlines(keepends=True)
    path.mkdir()
    (path / "a.tsv").write_bytes(b"".join(lines[:21]))
    (path / "b.tsv.gz").write_bytes(gzip.compress(lines[0] + b"".join(lines[21:])))
    (path / "notes.md").write_text("not tweets")


WRITERS = {
    "t.csv": write_csv,
    "t.jsonl": write_jsonl,
    "t.parquet": write_parquet,
    "t.tsv.gz": write_gz,
    "folder": write_folder,
}


@pytest.mark.parametrize("name", WRITERS)
def test_the_same_tweets_in_any_format_get_the_same_labels(tuned_job, new, tmp_path, call, name):
    WRITERS[name](tmp_path / name, new)
    words = (tuned_job.folder, tmp_path / name, "--output", tmp_path / "labels.tsv", "--columns", "label")
    outcome = call(predict.main, *words, "--block", 15)
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "labels.tsv").read_bytes() == (tuned_job.folder / "votes" / "final.tsv").read_bytes()


@pytest.mark.parametrize("name", ["l.csv", "l.jsonl", "l.parquet", "l.csv.gz", "l.tsv.gz"])
def test_labels_come_in_any_format(tuned_job, new, tmp_path, call, name):
    outcome = call(predict.main, tuned_job.folder, new, "--output", tmp_path / name, "--block", 15)
    assert outcome.code == 0, outcome.err
    kind = name.split(".")[1]
    read = {"csv": pd.read_csv, "jsonl": pd.read_json, "parquet": pd.read_parquet, "tsv": pd.read_table}[kind]
    options = {} if kind == "parquet" else {"dtype": str, **({"lines": True} if kind == "jsonl" else {})}
    found = read(tmp_path / name, **options)
    expected = read_labels(tuned_job.folder / "votes" / "final.tsv")
    assert found["tweet_id"].tolist() == expected.ids.to_pylist()
    assert found["Class"].tolist() == expected.labels.to_pylist()
    assert found.columns.tolist() == ["tweet_id", "Class", "probability"]


def test_pipes_carry_labels_and_nothing_else(tuned_job, new):
    words = [sys.executable, "predict.py", tuned_job.folder, "-", "--output", "-", "--columns", "label"]
    done = subprocess.run([str(w) for w in words], cwd=ROOT, stdin=new.open("rb"), capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (tuned_job.folder / "votes" / "final.tsv").read_bytes()


def test_what_was_answered_before_a_kill_is_not_answered_again(tuned_job, new, tmp_path):
    many = tmp_path / "many.tsv"
    lines = new.read_text().splitlines()
    many.write_text("\n".join([lines[0], *(lines[1:] * 60)]) + "\n")
    words = [sys.executable, "predict.py", tuned_job.folder, many, "--columns", "label", "--block", 200]
    whole = shell(*words, "--output", tmp_path / "whole.tsv")
    assert whole.code == 0, whole.err
    job = start([*words, "--output", tmp_path / "labels.tsv"])
    parts = tmp_path / ".labels.tsv.parts"
    assert wait_for(lambda: len(list(parts.glob("0*.parquet"))) > 2, 120)
    for process in session_of(job):
        process.send_signal(signal.SIGKILL)
    job.wait(300)
    kept = {path: path.stat().st_mtime_ns for path in parts.glob("0*.parquet")}
    assert 2 < len(kept) < 12
    other = shell(*words[:-1], 50, "--output", tmp_path / "labels.tsv")
    assert other.code == 2
    assert "was begun with other tweets, ensemble or --block" in other.err
    job = start([*words, "--output", tmp_path / "labels.tsv"])
    assert wait_for(lambda: len(list(parts.glob("0*.parquet"))) > len(kept), 120)
    assert all(path.stat().st_mtime_ns == written for path, written in kept.items())
    assert job.wait(300) == 0
    assert (tmp_path / "labels.tsv").read_bytes() == (tmp_path / "whole.tsv").read_bytes()


@pytest.mark.slow
def test_two_processes_share_the_blocks(tuned_job, new, tmp_path):
    many = tmp_path / "many.tsv"
    lines = new.read_text().splitlines()
    many.write_text("\n".join([lines[0], *(lines[1:] * 30)]) + "\n")
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "accelerate_config.yaml"]
    words = ["predict.py", tuned_job.folder, many, "--columns", "label", "--block", 40, "--use_cpu", "--output"]
    both = shell(*launcher, "--num_processes", 2, *words, tmp_path / "both.tsv")
    assert both.code == 0, both.err
    alone = shell(sys.executable, *words, tmp_path / "alone.tsv")
    assert alone.code == 0, alone.err
    assert (tmp_path / "both.tsv").read_bytes() == (tmp_path / "alone.tsv").read_bytes()


def test_a_block_is_all_that_is_read_at_once_and_lines_keep_their_numbers(tmp_path):
    path = tmp_path / "t.tsv"
    lines = [f"{n}\tu\ttweet \x85 {n}" for n in range(2, 27)]
    path.write_text("tweet_id\tuser_id\ttext\n" + "\n".join(lines) + "\n7 no tabs at all\n", encoding="utf-8")
    blocks = read_blocks([path], TASK, 10)
    assert next(blocks).ids == [str(n) for n in range(2, 12)]
    assert next(blocks).number == 1
    with pytest.raises(ValueError, match=r"t\.tsv, line 27: 1 fields where the header names 3"):
        next(blocks)


def test_an_encoding_is_that_of_the_whole_file(tmp_path):
    """The first block alone would pass for UTF-8."""
    path = tmp_path / "t.tsv"
    path.write_bytes(b"tweet_id\tuser_id\ttext\n1\tu\tplain\n2\tu\tcaf\xe9\n")
    assert [block.texts for block in read_blocks([path], TASK, 1)] == [["plain"], ["café"]]


def test_tweets_without_ids_are_numbered_over_all_files(tmp_path):
    own = read_task(ROOT / "tasks" / "own_data.yaml")
    numbered = own.__class__(**{**own.__dict__, "columns": own.columns.__class__(text=["text"], label=["label"])})
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text('text\n"two\nlines"\nmore\nlast\n')
    blocks = list(read_blocks([tmp_path / "a.csv", tmp_path / "b.csv"], numbered, 2))
    assert [block.ids for block in blocks] == [["0", "1"], ["2"], ["3", "4"], ["5"]]
    assert blocks[0].texts == ["two\nlines", "more"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["new.tsv", "--output", "labels.xlsx"], "--output labels.xlsx: choose a name that ends in .tsv"),
        (["new.tsv", "--output", "l.parquet.gz"], "choose a name that ends in"),
        (["nowhere.tsv", "--output", "l.tsv"], "nowhere.tsv is not there"),
        (
            ["new.tsv", "--output", "l.tsv", "--columns", "label,vote"],
            "--columns vote (did you mean votes?)",
        ),
        (["new.docx", "--output", "l.tsv"], "new.docx is none of .tsv"),
        (["new.tsv", "--output", "l.tsv", "--text_column_name", "body"], "no column body among"),
    ],
)
def test_bad_input_is_one_sentence(tuned_job, new, tmp_path, call, monkeypatch, words, message):
    for name in ("new.tsv", "new.docx"):
        shutil.copy(new, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    outcome = call(predict.main, tuned_job.folder, *words)
    assert outcome.code == 2
    assert message in outcome.err


@pytest.fixture
def two_gpus(monkeypatch):
    """A machine with two GPUs of 20 GB, of which 16 are free; and which of them was taken."""
    taken = []
    for name, answer in {
        "device_count": lambda: 2,
        "set_device": taken.append,
        "current_device": lambda: taken[-1],
        "mem_get_info": lambda device: (16e9, 20e9),
    }.items():
        monkeypatch.setattr(predict.torch.cuda, name, answer)
    for name in ("set_threads", "forget_the_launcher"):
        monkeypatch.setattr(predict, name, lambda *_: None)
    monkeypatch.setattr(predictor.psutil, "virtual_memory", lambda: SimpleNamespace(available=64e9))
    return taken


def test_each_launched_process_answers_on_a_gpu_of_its_own(two_gpus):
    places = [LaunchEnvironment(rank, 4, rank % 3, 3, False, None, 1) for rank in range(4)]
    assert [predict.take_device(place, use_cpu=False) for place in places] == ["cuda:0", "cuda:1", "cuda:0", "cuda:0"]
    assert predict.take_device(places[1], use_cpu=True) == "cpu"


def test_models_stay_where_the_device_has_room_for_them(two_gpus):
    assert [predictor.free_memory("cuda:1", n) for n in (1, 2, 3, 4)] == [16e9, 16e9, 8e9, 8e9]
    assert [predictor.free_memory("cpu", n) for n in (1, 4)] == [64e9, 16e9]


def test_a_job_that_kept_no_models_is_told_so(tuned_job, new, tmp_path, call):
    shutil.copytree(tuned_job.folder, tmp_path / "job", ignore=shutil.ignore_patterns("model"))
    outcome = call(predict.main, tmp_path / "job", new, "--output", tmp_path / "l.tsv")
    assert outcome.code == 2
    assert "17 of the ensemble's models were not kept; train with --keep_models all" in outcome.err
