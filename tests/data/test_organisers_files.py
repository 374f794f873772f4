"""Files as organisers hand them out: without headers, labels apart, in several spellings, in several files."""

import json

import pytest

from smm4h.config.job import TweetFile
from smm4h.config.task_file import read_task
from smm4h.data.dataset import read_labelled_tweets, read_tweets
from smm4h.data.streaming import read_blocks
from smm4h.utils.errors import InputError

IDS = ["1000000000000000073", "1000000000000000984", "1000000000000001281"]
TEXTS = ['my head "aches', "a fine day", "it was, so they say, the pills"]


COLUMNS = "id: tweet_id, text: tweet, label: label"


def task_of(folder, more: str = "", labels: str = '["0", "1"]', columns: str = COLUMNS):
    path = folder / "task.yaml"
    path.write_text(f"name: t\nlabels: {labels}\ncolumns: {{{columns}}}\n{more}\n")
    return read_task(path)


def write(path, rows, separator: str = "\t"):
    path.write_text("".join(separator.join(row) + "\n" for row in rows), encoding="utf-8")
    return path


def found(findings) -> str:
    return "\n".join(f"{count} {what}" for _, count, what in findings)


@pytest.mark.parametrize("is_given", [False, True])
def test_a_file_without_header_has_its_tweets_all(tmp_path, is_given):
    task = task_of(tmp_path, "header: [tweet_id, tweet]")
    rows = list(zip(IDS, TEXTS, strict=True))
    path = write(tmp_path / "a.tsv", [("tweet_id", "tweet"), *rows] if is_given else rows)
    tweets, _ = read_tweets([path], task, labelled=False)
    assert (tweets["id"][:], tweets["text"][:]) == (IDS, TEXTS)
    (block,) = read_blocks([path], task, 10)
    assert (block.ids, block.texts) == (IDS, TEXTS)


def test_a_csv_without_header_may_have_any_separator(tmp_path):
    task = task_of(tmp_path, "header: [tweet_id, tweet, label]")
    rows = [(IDS[0], '"a; b, c"', "1"), (IDS[1], '"two\nlines"', "0")]
    for separator in (",", ";"):
        tweets, _, _ = read_labelled_tweets([write(tmp_path / "a.csv", rows, separator)], task)
        assert (tweets["id"][:], tweets["text"][:], tweets["label"][:]) == (IDS[:2], ["a; b, c", "two\nlines"], [1, 0])


def test_a_header_of_other_names_is_no_tweet(tmp_path):
    task = task_of(tmp_path, "header: [tweet_id, tweet]")
    path = write(tmp_path / "a.tsv", [("id", "text"), *zip(IDS, TEXTS, strict=True)])
    with pytest.raises(InputError, match=r"a\.tsv, line 1: this looks like a header, but its names are not the task's"):
        read_tweets([path], task, labelled=False)


def label_files(folder):
    rows = [(IDS[2], "ADE"), (IDS[0], "NoADE"), (IDS[1], "noADE")]
    yield write(folder / "bare.tsv", rows)
    yield write(folder / "headed.csv", [("label", "id", "by"), *((label, i, "x") for i, label in rows)], ",")
    by_id = {i: {"label": label} for i, label in rows}
    (folder / "objects.json").write_text(json.dumps(by_id, indent=1))
    yield folder / "objects.json"
    (folder / "flat.json").write_text(json.dumps(dict(rows)))
    yield folder / "flat.json"


@pytest.mark.parametrize("number", range(4))
def test_labels_in_a_second_file_are_joined_by_id(tmp_path, number):
    task = task_of(tmp_path, "header: [tweet_id, tweet]", labels="{noADE: [NoADE, noADE], ADE: ADE}")
    texts = write(tmp_path / "tweets.tsv", zip(IDS, TEXTS, strict=True))
    labels = list(label_files(tmp_path))[number]
    tweets, without, _ = read_labelled_tweets([TweetFile(texts, labels=labels)], task)
    assert (tweets["id"][:], tweets["label"][:], without) == (IDS, [0, 0, 1], None)


def test_labels_that_lack_and_labels_that_are_left_over_are_counted(tmp_path):
    task = task_of(tmp_path, "header: [tweet_id, tweet]")
    texts = write(tmp_path / "tweets.tsv", zip(IDS, TEXTS, strict=True))
    labels = write(tmp_path / "labels.tsv", [(IDS[0], "1"), ("77", "0"), ("78", "0")])
    tweets, without, findings = read_labelled_tweets([TweetFile(texts, labels=labels)], task)
    assert (tweets["id"][:], without["id"][:]) == (IDS[:1], IDS[1:])
    assert "2 tweets have no label" in found(findings)
    assert "2 labels are of no tweet" in found(findings)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("77", "0"), ("78", "1")], "none of its ids is a tweet's in"),
        ([(IDS[0], "0"), (IDS[1], "0"), (IDS[0], "1")], "labels.tsv, line 3: this id has another label further up"),
        ([(IDS[0], "0"), (IDS[1], "2")], "labels.tsv, line 2: the label is none of 0, 1, but 2 once"),
        ([("a", "b", "c"), (IDS[0], "0", "0")], "labels.tsv, line 1: no column of ids"),
    ],
)
def test_labels_that_cannot_be_joined_are_refused(tmp_path, rows, message):
    task = task_of(tmp_path, "header: [tweet_id, tweet]")
    texts = write(tmp_path / "tweets.tsv", zip(IDS, TEXTS, strict=True))
    with pytest.raises(InputError, match=message):
        read_labelled_tweets([TweetFile(texts, labels=write(tmp_path / "labels.tsv", rows))], task)


def test_own_labels_of_a_corpus_that_the_file_of_labels_lacks_are_not_dropped(tmp_path):
    labels = write(tmp_path / "labels.tsv", [(IDS[0], "1")])
    bare = write(tmp_path / "bare.tsv", [("tweet_id", "tweet"), *zip(IDS, TEXTS, strict=True)])
    own = write(tmp_path / "own.tsv", [("tweet_id", "tweet", "label"), ("7", "another", "1")])
    files = [TweetFile(bare, labels=labels), TweetFile(own, labels=labels)]
    with pytest.raises(
        InputError, match=r"own\.tsv: .*labels\.tsv has a label for none of its tweets, and .* column label"
    ):
        read_labelled_tweets(files, task_of(tmp_path, ""))


def test_labels_written_as_floats_are_the_tasks(tmp_path):
    rows = [("tweet_id", "tweet", "label"), *zip(IDS, TEXTS, ["0.0", "1.0", "1"], strict=True)]
    tweets, _, _ = read_labelled_tweets([write(tmp_path / "a.tsv", rows)], task_of(tmp_path))
    assert tweets["label"][:] == [0, 1, 1]


def test_rows_with_a_broken_label_are_dropped_on_request_and_counted(tmp_path):
    rows = [("tweet_id", "tweet", "label"), *zip(IDS, TEXTS, ["1", "0)", "0"], strict=True)]
    path = write(tmp_path / "a.tsv", rows)
    with pytest.raises(InputError, match=r"line 3: the label is none of 0, 1, but 0\) once.*`unknown_labels: drop`"):
        read_labelled_tweets([path], task_of(tmp_path))
    tweets, without, findings = read_labelled_tweets([path], task_of(tmp_path, "unknown_labels: drop"))
    assert (tweets["id"][:], tweets["label"][:], without) == ([IDS[0], IDS[2]], [1, 0], None)
    assert "1 rows left out, whose label is none of 0, 1, but 0) once" in found(findings)


def test_several_corpora_are_one_set_with_a_source(tmp_path):
    rows = [("tweet_id", "tweet", "label", "source")]
    first = write(tmp_path / "a.tsv", [*rows, (IDS[0], TEXTS[0], "1", "reddit")])
    second = write(tmp_path / "b.tsv", [*rows, (IDS[1], TEXTS[1], "0", "reddit")])
    third = write(tmp_path / "c.tsv", [rows[0][:3], (IDS[2], TEXTS[2], "0")])
    task = task_of(tmp_path, columns=f"{COLUMNS}, source: source")
    files = [TweetFile(first), TweetFile(second, source="forum"), TweetFile(third)]
    tweets, _, _ = read_labelled_tweets(files, task)
    assert tweets["source"][:] == ["reddit", "forum", ""]


def test_a_folder_with_one_text_a_file_is_a_set_of_posts(tmp_path):
    folder = tmp_path / "txt"
    folder.mkdir()
    contents = ["soy médico\n", "dos\r\nlíneas\ty tabulador", "tweet_id\ttweet"]
    for name, text in zip(IDS, contents, strict=True):
        (folder / f"{name}.txt").write_bytes(text.encode())
    labels = write(tmp_path / "labels.tsv", [("tweet_id", "label"), *zip(IDS, "010", strict=True)])
    task = task_of(tmp_path, "one_text_per_file: true")
    tweets, _, findings = read_labelled_tweets([TweetFile(folder, labels=labels)], task)
    expected = ["soy médico", "dos\nlíneas\ty tabulador", "tweet_id\ttweet"]
    assert (tweets["id"][:], tweets["text"][:], tweets["label"][:]) == (IDS, expected, [0, 1, 0])
    assert [(where, what) for where, _, what in findings].count((str(folder), "read as utf-8")) == 1
    with pytest.raises(InputError, match="no column label among tweet_id, tweet"):
        read_labelled_tweets([TweetFile(folder)], task)
