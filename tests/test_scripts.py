"""ensemble.py and pseudo_label.py, on a finished job and on anyone's files."""

import json
import zipfile

import numpy as np
import pandas as pd
import pytest
from conftest import QUICKSTART

import ensemble
import pseudo_label
from smm4h.config.task import read_task
from smm4h.data import pseudo_labels
from smm4h.data.dataset import read_tweets
from smm4h.data.folds import add_folds
from smm4h.data.prediction_files import read_labels
from smm4h.data.readers import read_tsv

TASK5 = "tasks/task5.yaml"


def label_file(path, labels, ids=None):
    ids = ids or [str(10 + i) for i in range(len(labels))]
    path.write_text("tweet_id\tClass\n" + "".join(f"{i}\t{label}\n" for i, label in zip(ids, labels, strict=True)))
    return path


def elected(path):
    return [line.split("\t")[1] for line in path.read_text().splitlines()[1:]]


def test_the_script_gives_the_jobs_own_votes(finished_job, call, tmp_path):
    words = [finished_job.folder, "--output"]
    call(ensemble.main, *words, tmp_path / "final.tsv")
    assert (tmp_path / "final.tsv").read_text() == (finished_job.folder / "votes" / "final.tsv").read_text()
    teachers = ["bigru-42", "last2-pooler-42", "last3-42", "bigru-24", "last2-pooler-24", "last2-pooler-clean"]
    call(ensemble.main, *words, tmp_path / "stage1.tsv", "--members", *teachers)
    assert (tmp_path / "stage1.tsv").read_text() == (finished_job.folder / "votes" / "stage1.tsv").read_text()
    call(ensemble.main, *words, tmp_path / "final.zip")
    submission = finished_job.folder / "submission" / "prediction_task5.zip"
    assert (tmp_path / "final.zip").read_bytes() == submission.read_bytes()


def test_with_gold_it_prints_the_jobs_own_scores(finished_job, call, tmp_path):
    gold = tmp_path / "gold.tsv"
    gold.write_text("\n".join((QUICKSTART / "task5_test_gold.tsv").read_text().splitlines()[:41]) + "\n")
    outcome = call(ensemble.main, finished_job.folder, "--output", tmp_path / "v.tsv", "--gold", gold)
    assert outcome.code == 0, outcome.err
    scores = json.loads((finished_job.folder / "scores.json").read_text())
    for member in ("bigru-42", "last3-pooler-42"):
        test = scores[member]["test"]
        line = next(line for line in outcome.out.splitlines() if line.startswith(member))
        low, high = test["interval"]
        assert line.split()[1:] == [
            f"{test['f1']:.3f}",
            f"{low:.3f}-{high:.3f}",
            f"{test['precision']:.3f}",
            f"{test['recall']:.3f}",
        ]
    vote = next(line for line in outcome.out.splitlines() if line.startswith("vote"))
    assert vote.split()[1] == f"{scores['final vote *']['test']['f1']:.3f}"


def test_anyones_files_are_voted_with_repeated_ids(call, tmp_path):
    ids = ["7", "8", "7", "9"]
    files = [
        label_file(tmp_path / f"{n}.tsv", labels, ids) for n, labels in (("a", "1223"), ("b", "1313"), ("c", "2332"))
    ]
    outcome = call(ensemble.main, *files, "--output", tmp_path / "v.tsv")
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "v.tsv").read_text() == "tweet_id\tClass\n7\t1\n8\t3\n7\t1\n9\t3\n"
    assert "1 ties" in outcome.out


def test_label_files_with_gold_are_scored(call, tmp_path):
    files = [label_file(tmp_path / f"{i}.tsv", labels) for i, labels in enumerate(("1123", "1233", "1333"))]
    gold = label_file(tmp_path / "gold.tsv", "1233")
    outcome = call(ensemble.main, *files, "--output", tmp_path / "v.tsv", "--gold", gold, "--task", TASK5)
    assert elected(tmp_path / "v.tsv") == list("1133")  # the second tweet is a three-way tie: the lowest class
    rows = {
        line.split()[0].split("/")[-1]: line.split()[1]
        for line in outcome.out.splitlines()
        if "/" in line and ".tsv " in line
    }
    assert rows["1.tsv"] == "1.000"
    outcome = call(ensemble.main, *files, "--output", tmp_path / "v.tsv", "--gold", gold)
    assert outcome.code == 2
    assert "need the task: --task" in outcome.err


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (("123", ["10", "99", "12"]), "b.tsv, line 3: tweet 99 stands where .*a.tsv has 11"),
        (("12", None), "b.tsv has 2 rows, .*a.tsv has 3"),
        (("1234", None), "b.tsv has 4 rows, .*a.tsv has 3"),
    ],
)
def test_files_of_other_tweets_are_refused_with_the_first_differing_row(call, tmp_path, other, message):
    import re

    files = [label_file(tmp_path / "a.tsv", "123"), label_file(tmp_path / "b.tsv", *other)]
    outcome = call(ensemble.main, *files, "--output", tmp_path / "v.tsv")
    assert outcome.code == 2
    assert re.search(message, outcome.err)
    assert not (tmp_path / "v.tsv").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "soft"], "--method soft needs probabilities"),
        (["--ties", "probability"], "--ties probability needs probabilities"),
        (["--members", "a"], "--members chooses among a job's members"),
        (["--task", "tasks/task1.yaml"], "a.tsv, line 3: the label is none of 0, 1"),
        (["missing.tsv"], "missing.tsv is not there"),
    ],
)
def test_what_can_not_be_voted_is_answered(call, tmp_path, words, message):
    outcome = call(ensemble.main, label_file(tmp_path / "a.tsv", "123"), *words, "--output", tmp_path / "v.tsv")
    assert outcome.code == 2
    assert message in outcome.err


def test_an_untidy_label_file_is_read_and_a_broken_one_is_named(tmp_path, call):
    (tmp_path / "crlf.tsv").write_bytes(b"tweet_id\tClass\r\n10\t1\r\n\r\n11\t 2 \r\n")
    assert read_labels(tmp_path / "crlf.tsv").labels.to_pylist() == ["1", "2"]
    (tmp_path / "one.tsv").write_text("tweet_id\n10\n")
    outcome = call(ensemble.main, tmp_path / "one.tsv", "--output", tmp_path / "v.tsv")
    assert "one.tsv, line 1: a header and two columns are expected" in outcome.err
    (tmp_path / "short.tsv").write_text("tweet_id\tClass\n10\t1\n11\n")
    outcome = call(ensemble.main, tmp_path / "short.tsv", "--output", tmp_path / "v.tsv")
    assert "short.tsv, line 3: 1 fields where the header names 2" in outcome.err


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty"), (b"tweet_id\tClass\n", "has a header and no rows"), (b"\x81\x8d\n", "line 1: not valid UTF-8")],
)
def test_a_label_file_without_labels_is_named(tmp_path, call, content, message):
    (tmp_path / "a.tsv").write_bytes(content)
    outcome = call(ensemble.main, tmp_path / "a.tsv", "--output", tmp_path / "v.tsv")
    assert outcome.code == 2
    assert message in outcome.err


def test_a_byte_order_mark_and_a_missing_last_line_end_change_no_vote(tmp_path, call):
    (tmp_path / "a.tsv").write_bytes(b"\xef\xbb\xbftweet_id\tClass\n7\t2\n8\t1")
    call(ensemble.main, tmp_path / "a.tsv", "--output", tmp_path / "v.tsv")
    assert (tmp_path / "v.tsv").read_text() == "tweet_id\tClass\n7\t2\n8\t1\n"


def test_a_zip_with_more_than_the_submission_is_refused(tmp_path, call):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("prediction.tsv", "tweet_id\tClass\n1\t1\n")
        archive.writestr("notes.txt", "")
    outcome = call(ensemble.main, tmp_path / "a.zip", "--output", tmp_path / "v.tsv")
    assert "holds 2 files; exactly one" in outcome.err


def test_a_folder_that_is_no_job_and_an_unfinished_one_are_named(tiny_encoder, finished_job, call, tmp_path):
    outcome = call(ensemble.main, tmp_path, "--output", tmp_path / "v.tsv")
    assert "is not a job's output folder" in outcome.err
    (tmp_path / "plan.json").write_text((finished_job.folder / "plan.json").read_text())
    outcome = call(ensemble.main, tmp_path, "--output", tmp_path / "v.tsv")
    assert "45 of 45 runs are missing" in outcome.err


def test_the_script_makes_the_jobs_own_pseudo_labels(finished_job, call, tmp_path):
    """On the tweets that the thinned job kept, which plan the same parts."""
    folds = pd.read_parquet(finished_job.folder / "folds.parquet")
    table = [read_tsv(QUICKSTART / f"task5_{part}.tsv", None) for part in ("training", "validation")]
    lines = {row[0]: row for one in table for row in zip(*one.columns, strict=True)}
    header = "tweet_id\tuser_id\ttweet\tclass\n"
    (tmp_path / "labelled.tsv").write_text(header + "".join("\t".join(lines[i]) + "\n" for i in folds["id"]))
    tweets = (QUICKSTART / "task5_test_participant.tsv").read_text().split("\n")[:41]
    (tmp_path / "test.tsv").write_text("\n".join(tweets))
    words = [finished_job.folder / "votes" / "stage1.tsv", "--tweets", tmp_path / "test.tsv", "--task", TASK5]
    words += ["--fraction", 0.1, "--parts", 5, "--seed", 42, "--output_dir", tmp_path / "out"]
    outcome = call(pseudo_label.main, *words, "--train_file", tmp_path / "labelled.tsv")
    assert outcome.code == 0, outcome.err
    for fold in range(5):
        made = (tmp_path / "out" / f"fold-{fold}.tsv").read_text()
        assert made == (finished_job.folder / "pseudo_labels" / "seed-42" / f"fold-{fold}.tsv").read_text()


def pseudo_world(tmp_path, n_test=50):
    """Labelled tweets of which the first is twinned by every test tweet, and a vote on the test tweets."""
    header = "tweet_id\tuser_id\ttweet\tclass\n"
    texts = ["The SAME words @ann https://t.co/a", *(f"other words {i}" for i in range(29))]
    labels = [1 + i % 3 for i in range(30)]
    (tmp_path / "train.tsv").write_text(
        header + "".join(f"{i}\tu\t{t}\t{y}\n" for i, (t, y) in enumerate(zip(texts, labels, strict=True)))
    )
    tests = "".join(f"{100 + i}\tv\tthe same words @bob{i}\n" for i in range(n_test))
    (tmp_path / "test.tsv").write_text("tweet_id\tuser_id\ttext\n" + tests)
    label_file(tmp_path / "vote.tsv", ["1", "3"] * (n_test // 2), [str(100 + i) for i in range(n_test)])
    words = [
        tmp_path / "vote.tsv",
        "--tweets",
        tmp_path / "test.tsv",
        "--task",
        TASK5,
        "--output_dir",
        tmp_path / "out",
    ]
    return list(map(str, words))


def test_a_twin_of_a_held_out_tweet_is_left_out_of_that_fold_alone_and_counted(call, tmp_path):
    words = pseudo_world(tmp_path)
    outcome = call(pseudo_label.main, *words, "--train_file", tmp_path / "train.tsv")
    assert outcome.code == 0, outcome.err
    labelled, _ = read_tweets([tmp_path / "train.tsv"], read_task(TASK5), labelled=True)
    home = add_folds(labelled, 5, [42])["fold_42"][0]
    for fold in range(5):
        rows = read_tsv(tmp_path / "out" / f"fold-{fold}.tsv", None).columns[0]
        assert len(rows) == (0 if fold == home else 5)
        assert f"{5 if fold == home else 0} left out as twins" in next(
            line for line in outcome.out.splitlines() if line.startswith(f"fold {fold}:")
        )


def test_without_labelled_tweets_it_says_that_twins_could_not_be_left_out(call, tmp_path):
    outcome = call(pseudo_label.main, *pseudo_world(tmp_path))
    assert "twins of held-out tweets could not be left out" in outcome.out


def test_parts_are_random_disjoint_and_of_the_asked_size():
    parts = pseudo_labels.cut_disjoint_parts(4602, 0.1, 5, 42)
    assert [len(part) for part in parts] == [460, 460, 461, 460, 460]
    assert len(np.unique(np.concatenate(parts))) == 2301
    assert all((np.diff(part) > 0).all() for part in parts)
    assert not np.array_equal(parts[0], pseudo_labels.cut_disjoint_parts(4602, 0.1, 5, 24)[0])
    assert np.concatenate(pseudo_labels.cut_disjoint_parts(7, 0.2, 5, 1)).size == 7


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--fraction", "0.3"], "5 different parts can have 0.2 each at most"),
        (["--tweets", "no.tsv"], "no.tsv is not there"),
    ],
)
def test_what_can_not_be_cut_is_answered(call, tmp_path, words, message):
    outcome = call(pseudo_label.main, *pseudo_world(tmp_path), *words)
    assert outcome.code == 2
    assert message in outcome.err


def test_a_vote_on_other_tweets_is_refused(call, tmp_path):
    words = pseudo_world(tmp_path)
    label_file(tmp_path / "vote.tsv", "1" * 50)
    outcome = call(pseudo_label.main, *words)
    assert outcome.code == 2
    assert "vote.tsv, line 2: tweet 10 stands where" in outcome.err


def test_quoted_tweets_survive_the_way_through_a_part(call, tmp_path):
    words = pseudo_world(tmp_path, n_test=10)
    lines = "".join(f'{100 + i}\tv\t"""all"" of it"\n' for i in range(10))
    (tmp_path / "test.tsv").write_text("tweet_id\tuser_id\ttext\n" + lines)
    call(pseudo_label.main, *words, "--fraction", "0.2")
    back, _ = read_tweets([tmp_path / "out" / "fold-0.tsv"], read_task(TASK5), labelled=True)
    assert back["text"][:] == ['"all" of it'] * 2
