"""The command `vote` on a finished job and on label files."""

import json
import re

import pytest
from conftest import INVENTED, TASK5, all_files
from tweet_files import write_labels

from smm4h.cli.vote import main
from smm4h.config.output_paths import check_not_of_job
from smm4h.data.outputs.label_files import read_labels
from smm4h.utils.errors import InputError


def test_the_command_gives_the_jobs_own_votes(finished_job, call, tmp_path):
    words = [finished_job.folder, "--output"]
    call(main, *words, tmp_path / "final.tsv")
    assert (tmp_path / "final.tsv").read_text() == (finished_job.folder / "votes" / "final.tsv").read_text()
    teachers = ["bigru-42", "last2-pooler-42", "last3-42", "bigru-24", "last2-pooler-24", "last2-pooler-clean"]
    call(main, *words, tmp_path / "stage1.tsv", "--members", *teachers)
    assert (tmp_path / "stage1.tsv").read_text() == (finished_job.folder / "votes" / "stage1.tsv").read_text()
    call(main, *words, tmp_path / "final.zip")
    submission = finished_job.folder / "submission" / "prediction_task5.zip"
    assert (tmp_path / "final.zip").read_bytes() == submission.read_bytes()


def test_a_vote_lies_in_the_jobs_folder_and_replaces_nothing_there(copied_job, call):
    folder = copied_job.folder
    before = all_files(folder)
    assert call(main, folder, "--output", folder / "vote.tsv").code == 0
    assert (folder / "vote.tsv").read_bytes() == before["votes/final.tsv"]
    for name in ("votes/final.tsv", "out_of_fold.parquet", "label_problems.tsv"):
        result = call(main, folder, "--output", folder / name)
        assert result.code == 2
        assert f"would replace a part of {folder}, a job's folder" in result.err
    (folder / "vote.tsv").unlink()
    assert all_files(folder) == before
    for path in folder.iterdir():  # whatever a job writes is known
        with pytest.raises(InputError, match="would replace a part of"):
            check_not_of_job(path)


def test_with_gold_it_prints_the_jobs_own_scores(finished_job, call, tmp_path):
    gold = tmp_path / "gold.tsv"
    gold.write_text("\n".join((INVENTED / "task5_test_gold.tsv").read_text().splitlines()[:41]) + "\n")
    result = call(main, finished_job.folder, "--output", tmp_path / "v.tsv", "--gold", gold)
    assert result.code == 0, result.err
    scores = json.loads((finished_job.folder / "scores.json").read_text())
    for member in ("bigru-42", "last3-pooler-42"):
        test = scores[member]["test"]
        row = next(line for line in result.out.splitlines() if line.startswith(member))
        low, high = test["interval"]
        expected = f"{test['f1']:.3f} {low:.3f}-{high:.3f} {test['precision']:.3f} {test['recall']:.3f}"
        assert row.split()[1:] == expected.split()
    vote = next(line for line in result.out.splitlines() if line.startswith("vote"))
    assert vote.split()[1] == f"{scores['final vote *']['test']['f1']:.3f}"


def test_label_files_with_repeated_ids_are_voted(call, tmp_path):
    ids = ["7", "8", "7", "9"]
    labels = {"a": "1223", "b": "1313", "c": "2332"}
    files = [write_labels(tmp_path / f"{name}.tsv", labels[name], ids) for name in labels]
    result = call(main, *files, "--output", tmp_path / "v.tsv")
    assert result.code == 0, result.err
    assert (tmp_path / "v.tsv").read_text() == "tweet_id\tClass\n7\t1\n8\t3\n7\t1\n9\t3\n"
    assert "1 ties" in result.out


def test_label_files_with_gold_are_scored(call, tmp_path):
    files = [write_labels(tmp_path / f"{i}.tsv", labels) for i, labels in enumerate(("1123", "1233", "1333"))]
    gold = write_labels(tmp_path / "gold.tsv", "1233")
    result = call(main, *files, "--output", tmp_path / "v.tsv", "--gold", gold, "--task", TASK5)
    assert read_labels(tmp_path / "v.tsv").labels.to_pylist() == list("1133")  # the second tweet is a three-way tie
    row = next(line for line in result.out.splitlines() if "/1.tsv " in line)
    assert row.split()[1] == "1.000"
    result = call(main, *files, "--output", tmp_path / "v.tsv", "--gold", gold)
    assert result.code == 2
    assert "need the task: --task" in result.err


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (("123", ["10", "99", "12"]), "b.tsv, line 3: tweet 99 is not in .*a.tsv; the same tweets"),
        (("12", None), r"b.tsv lacks tweet 12 \(.*a.tsv, line 4\); the same tweets"),
        (("1234", None), "b.tsv, line 5: tweet 13 is not in .*a.tsv; the same tweets"),
        (("123", ["10", "10", "12"]), "b.tsv, line 3: tweet 10 stands where .*a.tsv has 11"),
    ],
)
def test_files_of_other_tweets_are_refused_with_the_tweet_and_its_line(call, tmp_path, other, message):
    files = [write_labels(tmp_path / "a.tsv", "123"), write_labels(tmp_path / "b.tsv", *other)]
    result = call(main, *files, "--output", tmp_path / "v.tsv")
    assert result.code == 2
    assert re.search(message, result.err)
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
def test_what_can_not_be_voted_is_refused(call, tmp_path, words, message):
    result = call(main, write_labels(tmp_path / "a.tsv", "123"), *words, "--output", tmp_path / "v.tsv")
    assert result.code == 2
    assert message in result.err


@pytest.mark.parametrize("flags", [["--method", "greedy"], ["--decision", "tuned"]])
def test_no_vote_is_fitted_on_label_files(tmp_path, call, flags):
    votes = write_labels(tmp_path / "a.tsv", "123")
    result = call(main, votes, votes, *flags, "--output", tmp_path / "v.tsv")
    assert result.code == 2
    assert "files do not say what to fit a vote on" in result.err


@pytest.mark.parametrize(
    ("decision", "says"),
    [
        ("recall>=0.8", "recall>=0.8: out of fold it is 0."),
        ("flagged<=0.1", "flagged<=0.1: out of fold it is 0."),
        ("missed: 20, false: 1", "missed: 20, false: 1: out of fold the errors on 1,000 tweets cost "),
        ("f2", "f2: out of fold it is 0."),
        ("1: 4, 2: 2", "1: 4, 2: 2, 3: 1: out of fold recall "),
    ],
)
def test_a_job_votes_by_any_decision(tuned_job, call, tmp_path, decision, says):
    result = call(main, tuned_job.folder, "--decision", decision, "--output", tmp_path / "v.tsv")
    assert result.code == 0, result.err
    assert says in result.out
    assert len(read_labels(tmp_path / "v.tsv").ids) == 40


@pytest.mark.parametrize(
    ("decision", "message"),
    [
        ("recal>=0.9", "no target recal (did you mean recall?)"),
        ("costs", "the task file has no `costs:`"),
        ("0.3", "a threshold needs two labels"),
        ("4: 2", "there is no label 4; labels are 1, 2, 3"),
    ],
)
def test_a_decision_that_a_job_can_not_have_is_refused(tuned_job, call, tmp_path, decision, message):
    result = call(main, tuned_job.folder, "--decision", decision, "--output", tmp_path / "v.tsv")
    assert result.code == 2
    assert message in result.err
    assert not (tmp_path / "v.tsv").exists()
