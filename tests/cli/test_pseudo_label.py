"""The command `pseudo-label` on a job's vote and on label files."""

import pandas as pd
import pytest
from conftest import INVENTED, TASK5
from tweet_files import HEADER, TASK, UNLABELLED_HEADER, write_labels

from smm4h.cli.pseudo_label import main
from smm4h.data.dataset import read_tweets
from smm4h.data.folds import add_folds
from smm4h.data.readers.formats import read_tsv


def test_the_command_makes_the_jobs_own_pseudo_labels(finished_job, call, tmp_path):
    """Given the tweets that the thinned job kept, so that the parts are the same."""
    folds = pd.read_parquet(finished_job.folder / "folds.parquet")
    tables = [read_tsv(INVENTED / f"task5_{part}.tsv", None) for part in ("training", "validation")]
    lines = {row[0]: row for table in tables for row in zip(*table.columns, strict=True)}
    (tmp_path / "labelled.tsv").write_text(HEADER + "".join("\t".join(lines[i]) + "\n" for i in folds["id"]))
    tweets = (INVENTED / "task5_test_participant.tsv").read_text().split("\n")[:41]
    (tmp_path / "test.tsv").write_text("\n".join(tweets))
    words = [finished_job.folder / "votes" / "stage1.tsv", "--tweets", tmp_path / "test.tsv", "--task", TASK5]
    words += ["--fraction", 0.1, "--parts", 5, "--seed", 42, "--output_dir", tmp_path / "out"]
    result = call(main, *words, "--train_file", tmp_path / "labelled.tsv")
    assert result.code == 0, result.err
    for fold in range(5):
        part = (tmp_path / "out" / f"fold-{fold}.tsv").read_text()
        assert part == (finished_job.folder / "pseudo_labels" / "seed-42" / f"fold-{fold}.tsv").read_text()


@pytest.fixture
def words(tmp_path) -> list:
    """A command on 50 test tweets with a vote, all of them duplicates of the first of 30 labelled tweets."""
    texts = ["The SAME words @ann https://t.co/a", *(f"other words {i}" for i in range(29))]
    labelled = "".join(f"{i}\tu\t{text}\t{1 + i % 3}\n" for i, text in enumerate(texts))
    (tmp_path / "train.tsv").write_text(HEADER + labelled)
    tests = "".join(f"{100 + i}\tv\tthe same words @bob{i}\n" for i in range(50))
    (tmp_path / "test.tsv").write_text(UNLABELLED_HEADER + tests)
    write_labels(tmp_path / "vote.tsv", ["1", "3"] * 25, [str(100 + i) for i in range(50)])
    files = [tmp_path / "vote.tsv", "--tweets", tmp_path / "test.tsv"]
    return [*files, "--task", TASK5, "--output_dir", tmp_path / "out"]


def test_a_duplicate_of_a_held_out_tweet_is_left_out_of_that_fold_alone_and_counted(call, tmp_path, words):
    result = call(main, *words, "--train_file", tmp_path / "train.tsv")
    assert result.code == 0, result.err
    labelled, _ = read_tweets([tmp_path / "train.tsv"], TASK, labelled=True)
    duplicated_fold = add_folds(labelled, 5, [42])["fold_42"][0]
    for fold in range(5):
        rows = read_tsv(tmp_path / "out" / f"fold-{fold}.tsv", None).columns[0]
        line = next(line for line in result.out.splitlines() if line.startswith(f"fold {fold}:"))
        assert len(rows) == (0 if fold == duplicated_fold else 5)
        assert f"{5 if fold == duplicated_fold else 0} left out as duplicates" in line


def test_without_labelled_tweets_a_note_says_that_duplicates_could_not_be_left_out(call, words):
    result = call(main, *words)
    assert "duplicates of held-out tweets could not be left out" in result.out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--fraction", "0.3"], "5 different parts can have 0.2 each at most"),
        (["--tweets", "no.tsv"], "no.tsv is not there"),
    ],
)
def test_what_can_not_be_cut_is_refused(call, words, more, message):
    result = call(main, *words, *more)
    assert result.code == 2
    assert message in result.err


def test_a_vote_on_other_tweets_is_refused(call, tmp_path, words):
    write_labels(tmp_path / "vote.tsv", "1" * 50)
    result = call(main, *words)
    assert result.code == 2
    assert "vote.tsv, line 2: tweet 10 is not in" in result.err


def test_quoted_tweets_survive_the_way_through_a_part(call, tmp_path, words):
    lines = "".join(f'{100 + i}\tv\t"""all"" of it"\n' for i in range(10))
    (tmp_path / "test.tsv").write_text(UNLABELLED_HEADER + lines)
    write_labels(tmp_path / "vote.tsv", ["1", "3"] * 5, [str(100 + i) for i in range(10)])
    call(main, *words, "--fraction", "0.2")
    part, _ = read_tweets([tmp_path / "out" / "fold-0.tsv"], TASK, labelled=True)
    assert part["text"][:] == ['"all" of it'] * 2


def test_what_was_odd_about_the_tweets_is_printed_and_columns_may_be_named(call, tmp_path):
    (tmp_path / "t.csv").write_bytes(b"n;body\n11;caf\xe9\n12;two\n")
    write_labels(tmp_path / "v.tsv", "12", ["11", "12"])
    words = [tmp_path / "v.tsv", "--tweets", tmp_path / "t.csv", "--task", TASK5, "--fraction", 0.5, "--parts", 2]
    result = call(main, *words, "--output_dir", tmp_path / "out")
    assert result.code == 2
    assert "--text_column_name" in result.err
    words += ["--text_column_name", "body", "--id_column_name", "n"]
    result = call(main, *words, "--output_dir", tmp_path / "out")
    assert result.code == 0, result.err
    assert f"{tmp_path / 't.csv'}: read as cp1252, because line 2" in result.out
    assert f"{tmp_path / 't.csv'}: separated by semicolons" in result.out
    labelled = tmp_path / "l.tsv"
    labelled.write_text("n\tbody\tclass\n1\tx\t1\n2\ty\t2\n3\tz\t3\n", encoding="utf-8")
    result = call(main, *words, "--output_dir", tmp_path / "out2", "--train_file", labelled)
    assert "label 1 has 1 tweet, fewer than the 2 folds; label or keep more of them, or cut fewer folds (--parts)" in (
        result.err
    )
