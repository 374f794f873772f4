"""Label files as people hand them in: numbers, columns, orders and formats, through the command `vote`."""

import csv
import datetime
import gzip
import re
import zipfile
from dataclasses import replace

import pandas as pd
import pyarrow as pa
import pytest
from conftest import TASK5
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tweet_files import UNLABELLED_HEADER, write_labels

from smm4h.cli import pseudo_label, vote
from smm4h.config.task import Columns
from smm4h.config.task_file import read_task
from smm4h.data.outputs.label_files import read_labels
from smm4h.data.outputs.label_files import write_labels as write_label_file
from smm4h.utils.errors import InputError

COMMA_IDS = ['1,5"', "2"]


def elected(call, folder, files, *words, output="v.tsv"):
    """Vote; return the labels by id as pandas reads them."""
    result = call(vote.main, *files, "--output", folder / output, "--overwrite", *words)
    assert result.code == 0, result.err
    frame = pd.read_csv(folder / output, sep="\t", dtype=str)
    return dict(zip(frame["tweet_id"], frame["Class"], strict=True))


@pytest.mark.parametrize(
    ("labels", "words", "winner"),
    [
        (("1", "1.0", "0.0"), [], "1"),
        (("0.0", "1.0", "1"), [], "1.0"),  # as the first file writes it that has the label
        (("1.0", " 1 ", "2"), ["--task", TASK5], "1"),
        (("3.0", "1", "3e0"), ["--task", TASK5], "3"),
        (('"2"', "2", "1"), [], "2"),
        (("no", "No", "no"), [], "no"),
        (("TRUE", "False", "true"), [], "TRUE"),
    ],
)
def test_labels_of_the_same_number_are_one_label(tmp_path, call, labels, words, winner):
    files = [write_labels(tmp_path / f"{i}.tsv", [label], ["11"]) for i, label in enumerate(labels)]
    assert elected(call, tmp_path, files, *words) == {"11": winner}


def test_the_lowest_class_of_a_tie_is_the_lowest_number(tmp_path, call):
    files = [write_labels(tmp_path / f"{label}.tsv", [label], ["11"]) for label in ("10", "9")]
    assert elected(call, tmp_path, files) == {"11": "9"}


def test_gold_that_a_data_frame_turned_into_floats_scores_the_vote(tmp_path, call):
    gold = tmp_path / "gold.csv"
    pd.DataFrame({"Class": [1.0, 2.0, 3.0], "tweet_id": [12, 10, 11]}).to_csv(gold, index=False)
    files = [write_labels(tmp_path / "a.tsv", "231")]
    result = call(vote.main, *files, "--output", tmp_path / "v.tsv", "--gold", gold, "--task", TASK5)
    assert result.code == 0, result.err
    row = next(line for line in result.out.splitlines() if line.startswith("vote "))
    assert row.split()[1] == "1.000"


LABELS = {"10": "1", "11": "3", "12": "2"}
FRAME = pd.DataFrame({"tweet_id": list(LABELS), "Class": list(LABELS.values())})
OTHER_LAYOUTS = {
    "more.csv": FRAME.assign(probability=0.9, margin=0.8, votes=3),
    "order.tsv": FRAME[["Class", "tweet_id"]],
    "rows.jsonl": FRAME[::-1],
    "case.csv": FRAME.rename(columns={"tweet_id": "Tweet_ID", "Class": "LABEL"}).assign(note="a, b"),
    "task.parquet": FRAME.rename(columns={"Class": "class"}).assign(tweet="some words", user_id="u"),
    "numbers.parquet": FRAME.astype(int)[["Class", "tweet_id"]],
    "own_names.tsv": FRAME.rename(columns={"tweet_id": "document", "Class": "answer"}),
    "packed.csv.gz": FRAME.sample(frac=1, random_state=1),
    "packed.jsonl.gz": FRAME,
    "sheet.xlsx": FRAME.astype({"Class": int}),
}


def write_frame(path, frame):
    if ".parquet" in path.suffixes:
        frame.to_parquet(path, index=False)
    elif ".xlsx" in path.suffixes:
        frame.to_excel(path, index=False)
    elif ".jsonl" in path.suffixes:
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_csv(path, index=False, sep="," if ".csv" in path.suffixes else "\t")
    return path


@pytest.mark.parametrize("name", OTHER_LAYOUTS)
def test_a_label_file_of_any_layout_votes_as_the_plain_one_does(tmp_path, call, name):
    other = write_frame(tmp_path / name, OTHER_LAYOUTS[name])
    against = write_labels(tmp_path / "against.tsv", "333")
    assert elected(call, tmp_path, [other, other, against]) == LABELS
    assert elected(call, tmp_path, [against, other, other]) == LABELS


def test_a_zipped_csv_is_read(tmp_path, call):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("prediction.csv", 'tweet_id,Class\n"10",1\n11,2\n')
    assert elected(call, tmp_path, [tmp_path / "a.zip"]) == {"10": "1", "11": "2"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("11\t1\n12\t2\n", "a.tsv, line 1: no header here"),
        ("tweet_id\tClass\n11\t1\n12\t\n", "a.tsv, line 3: no label; every tweet needs one"),
        ("tweet_id\tClass\n11\t1\n\t2\n", "a.tsv, line 3: no id; every tweet needs one"),
        ("a\tb\tc\n1\t2\t3\n", "a.tsv, line 1: no column tweet_id or id among a, b, c"),
        ("id\tb\tc\n1\t2\t3\n", "a.tsv, line 1: no column Class or class or label among id, b, c"),
        ("id\tid\n1\t2\n", "a.tsv, line 1: two columns are named id"),
        ("id\tvery long words of a tweet that nobody may see\tc\n1\t2\t3\n", "no column Class or class or label; name"),
        ("id\tc\n1\t" + "words of a tweet " * 9, "a label has 152 characters, so this may be the text"),
        ("id\tp_1\tp_2\n7\t0.4\tmuch\n", "a.tsv, line 2: the columns p_1, p_2 must hold probabilities"),
    ],
)
def test_a_label_file_that_is_none_is_named_with_its_line(tmp_path, call, content, message):
    (tmp_path / "a.tsv").write_text(content, encoding="utf-8")
    result = call(vote.main, tmp_path / "a.tsv", "--output", tmp_path / "v.tsv")
    assert result.code == 2
    assert message in result.err
    assert not (tmp_path / "v.tsv").exists()


def test_a_text_in_the_place_of_an_id_is_not_shown(tmp_path, call):
    one, two = (write_labels(tmp_path / f"{name}.tsv", "1", [f"some words {name}"]) for name in "ab")
    result = call(vote.main, one, two, "--output", tmp_path / "v.tsv")
    assert (result.code, "words" in result.err) == (2, False)
    assert "b.tsv, line 2: tweet ... is not in" in result.err


def test_a_broken_archive_is_one_sentence(tmp_path, call):
    for name in ("a.tsv.gz", "a.zip", "a.parquet"):
        (tmp_path / name).write_bytes(b"nothing of that kind")
        result = call(vote.main, tmp_path / name, "--output", tmp_path / "v.tsv")
        assert result.code == 2
        assert result.err.startswith(f"error: {tmp_path / name} ")
        assert result.err.count("\n") == 1


def test_a_line_of_a_packed_file_is_named_under_the_files_own_name(tmp_path, call):
    (tmp_path / "a.tsv.gz").write_bytes(gzip.compress(b"tweet_id\tClass\n11\t1\n12\n"))
    result = call(vote.main, tmp_path / "a.tsv.gz", "--output", tmp_path / "v.tsv")
    assert f"{tmp_path / 'a.tsv.gz'}, line 3: no label; every tweet needs one" in result.err


def test_another_encoding_is_named_by_the_flag(tmp_path, call):
    text = "tweet_id\tClass\n11\tкошка\n12\tсобака\n"
    (tmp_path / "a.tsv").write_bytes(text.encode("cp1251"))
    assert elected(call, tmp_path, [tmp_path / "a.tsv"], "--encoding", "cp1251") == {"11": "кошка", "12": "собака"}
    (tmp_path / "a.tsv").write_text(text, encoding="utf-8")  # is recognised, whatever the tweets' encoding is
    assert elected(call, tmp_path, [tmp_path / "a.tsv"], "--encoding", "cp1251") == {"11": "кошка", "12": "собака"}
    result = call(vote.main, tmp_path / "a.tsv", "--output", tmp_path / "w.tsv", "--encoding", "klingon")
    assert (result.code, "--encoding klingon is no encoding" in result.err) == (2, True)


# Probabilities


def with_probabilities(path, labels, **columns):
    return write_frame(path, pd.DataFrame({"tweet_id": ["7", "8"], "Class": labels, **columns}))


def test_probabilities_of_all_classes_hold_a_soft_vote(tmp_path, call):
    one = with_probabilities(tmp_path / "a.csv", ["1", "2"], p_1=[0.9, 0.3], p_2=[0.1, 0.7])
    two = with_probabilities(tmp_path / "b.jsonl", ["2", "2"], p_2=[0.6, 0.6], p_1=[0.4, 0.4])
    assert elected(call, tmp_path, [one, two], "--method", "soft") == {"7": "1", "8": "2"}
    three = with_probabilities(tmp_path / "c.parquet", ["2", "2"], p_2=[0.6, 0.6], p_1=[0.4, 0.4])
    assert elected(call, tmp_path, [one, two, three]) == {"7": "2", "8": "2"}


def test_the_labels_vote_where_a_file_has_only_their_own_probability(tmp_path, call):
    one = with_probabilities(tmp_path / "a.csv", ["1", "2"], p_1=[0.9, 0.3], p_2=[0.1, 0.7])
    two = with_probabilities(tmp_path / "b.csv", ["2", "2"], probability=[0.6, 0.6])
    assert elected(call, tmp_path, [one, two]) == {"7": "1", "8": "2"}
    result = call(vote.main, one, two, "--output", tmp_path / "w.tsv", "--method", "soft")
    assert (result.code, "--method soft needs probabilities of every label (columns p_1, p_2)" in result.err) == (
        2,
        True,
    )


def test_probabilities_without_labels_vote_by_the_highest(tmp_path, call):
    frame = pd.DataFrame({"id": ["7", "8"], "p_1": [0.2, 0.8], "p_2": [0.5, 0.1], "p_3": [0.3, 0.1]})
    assert elected(call, tmp_path, [write_frame(tmp_path / "a.csv", frame)], "--task", TASK5) == {"7": "2", "8": "1"}
    result = call(vote.main, tmp_path / "a.csv", "--task", "tasks/task1.yaml", "--output", tmp_path / "w.tsv")
    assert (result.code, "probabilities of 1, 2, 3 where 0, 1 are the labels" in result.err) == (2, True)


# Outputs


def test_a_vote_reads_back_in_every_format_as_it_was_elected(tmp_path, call):
    source = write_labels(tmp_path / "a.tsv", ["yes, it is", 'a "b"'], COMMA_IDS)
    for name in ("v.csv", "v.tsv", "v.txt", "v.jsonl", "v.parquet", "v.csv.gz", "v.tsv.gz", "v.jsonl.gz"):
        result = call(vote.main, source, "--output", tmp_path / name)
        assert result.code == 0, result.err
        if ".csv" in name:
            frame = pd.read_csv(tmp_path / name, dtype=str)
        elif ".jsonl" in name:
            frame = pd.read_json(tmp_path / name, lines=True, dtype=False)
        elif ".parquet" in name:
            frame = pd.read_parquet(tmp_path / name)
        else:
            frame = pd.read_csv(tmp_path / name, sep="\t", dtype=str, quoting=3)
        assert frame.to_dict("list") == {"tweet_id": COMMA_IDS, "Class": ["yes, it is", 'a "b"']}, name
        back = call(vote.main, tmp_path / name, "--output", tmp_path / "back.tsv", "--overwrite")
        assert back.code == 0, back.err
        assert (tmp_path / "back.tsv").read_bytes() == source.read_bytes()


FORMULAS = ["=1+1", "@sum", "-a", "+b", "'=c", "'" * 2 + "@d", "-1", "+2.5", "f"]
SHOWN = ["'=1+1", "'@sum", "'-a", "'+b", "'" * 2 + "=c", "'" * 3 + "@d", "-1", "+2.5", "f"]


def test_no_spreadsheet_runs_a_label_or_an_id_and_both_read_back(tmp_path, call):
    ids = [f"{text} {number}" for number, text in enumerate(FORMULAS)]
    pd.DataFrame({"tweet_id": ids, "Class": FORMULAS}).to_json(tmp_path / "a.jsonl", orient="records", lines=True)
    for name in ("v.csv", "v.csv.gz", "v.tsv", "v.jsonl", "v.parquet"):
        result = call(vote.main, tmp_path / "a.jsonl", "--output", tmp_path / name)
        assert result.code == 0, result.err
        back = read_labels(tmp_path / name)
        assert (back.ids.to_pylist(), back.labels.to_pylist()) == (ids, FORMULAS), name
    assert pd.read_csv(tmp_path / "v.csv", dtype=str)["Class"].tolist() == SHOWN


@pytest.mark.parametrize("character", ["\t", "\n", "\r", "\0", "\u2028", "\x85"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet"])
def test_a_tab_or_an_end_of_line_in_an_id_or_a_label_is_refused_with_its_line(tmp_path, call, name, character):
    """Of a vote of such labels, its own file would hold other labels, or more of them."""
    write, options = {
        "a.jsonl": ("to_json", {"orient": "records", "lines": True}),
        "a.csv": ("to_csv", {"index": False, "quoting": csv.QUOTE_ALL}),
        "a.parquet": ("to_parquet", {}),
    }[name]
    for column in ("tweet_id", "Class"):
        frame = pd.DataFrame({"tweet_id": ["10", "11"], "Class": ["1", "2"]})
        frame.loc[1, column] = f"1{character}2"
        getattr(frame, write)(tmp_path / name, **options)
        result = call(vote.main, tmp_path / name, "--output", tmp_path / "v.tsv")
        assert result.code == 2
        what = {"tweet_id": "id", "Class": "label"}[column]
        assert re.search(rf"{name}, (line|row) \d: the {what} holds a tab, an end of line", result.err), result.err
        assert not (tmp_path / "v.tsv").exists()


CELLS = (
    st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1)
    .map(str.strip)
    .filter(lambda cell: cell and not cell.startswith('="') and not cell[0] == '"' == cell[-1])
)


@pytest.mark.parametrize("name", ["v.tsv", "v.csv", "v.jsonl", "v.parquet", "v.csv.gz"])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=5))
def test_every_label_file_is_read_back_as_it_was_written(tmp_path, name, rows):
    ids, labels = (list(column) for column in zip(*rows, strict=True))
    write_label_file(tmp_path / name, pa.chunked_array([ids]), labels)
    back = read_labels(tmp_path / name)
    assert (back.ids.to_pylist(), back.labels.to_pylist()) == (ids, labels)


@pytest.mark.parametrize("name", ["v.xlsx", "v", "v.parquet.gz", "v.gz", "-"])
def test_an_output_of_no_format_is_refused(tmp_path, call, name):
    result = call(vote.main, write_labels(tmp_path / "a.tsv", "12"), "--output", tmp_path / name)
    assert result.code == 2
    assert f"--output {tmp_path / name}: choose a name that ends in .tsv" in result.err
    assert [path.name for path in tmp_path.iterdir()] == ["a.tsv"]


SEPARATORS = {"prediction.csv": ",", "prediction.tsv": "\t", "answer.txt": "\t"}


@pytest.mark.parametrize(("name", "separator"), SEPARATORS.items())
def test_a_submission_is_separated_as_its_name_says(tmp_path, call, name, separator):
    labels = "[none, 'side, effect']"
    columns = "{text: text, label: label}"
    task = f"name: t\nlabels: {labels}\ncolumns: {columns}\nsubmission: {{file: {name}, columns: [tweet_id, Class]}}\n"
    (tmp_path / "task.yaml").write_text(task, encoding="utf-8")
    source = write_labels(tmp_path / "a.tsv", ["none", "side, effect"])
    result = call(vote.main, source, "--task", tmp_path / "task.yaml", "--output", tmp_path / "v.zip")
    assert result.code == 0, result.err
    with zipfile.ZipFile(tmp_path / "v.zip") as archive, archive.open(name) as stream:
        frame = pd.read_csv(stream, sep=separator, dtype=str)
    assert frame.to_dict("list") == {"tweet_id": ["10", "11"], "Class": ["none", "side, effect"]}


# Pseudo labels


@pytest.mark.parametrize("name", ["answers.csv", "answers.jsonl.gz", "answers.parquet"])
def test_what_predict_writes_is_cut_into_pseudo_labels(tmp_path, call, name):
    rows = "".join(f"{100 + i}\tu\twords {i}\n" for i in range(20))
    (tmp_path / "test.tsv").write_text(UNLABELLED_HEADER + rows, encoding="utf-8")
    ids, labels = [str(100 + i) for i in range(20)], [str(1 + i % 3) for i in range(20)]
    frame = pd.DataFrame({"tweet_id": ids, "Class": labels, "probability": 0.7, "margin": 0.2, "votes": 4})
    answers = write_frame(tmp_path / name, frame[::-1])
    words = ["--tweets", tmp_path / "test.tsv", "--task", TASK5, "--output_dir", tmp_path / "out", "--fraction", "0.2"]
    result = call(pseudo_label.main, answers, *words)
    assert result.code == 0, result.err
    parts = pd.concat(pd.read_csv(path, sep="\t", dtype=str) for path in (tmp_path / "out").iterdir())
    assert sorted(parts["row"].astype(int)) == list(range(20))
    assert parts["tweet_id"].tolist() == [str(100 + int(row)) for row in parts["row"]]
    assert parts["class"].tolist() == [labels[int(row)] for row in parts["row"]]


def test_what_was_odd_about_label_files_is_printed(tmp_path, call):
    (tmp_path / "r.tsv").write_text('"tweet_id"\t"Class"\n"1"\t"11"\t"1"\n"2"\t"12"\t"2"\n', encoding="utf-8")
    (tmp_path / "g.csv").write_bytes(b'id,label,note\n="12",2,caf\xe9\n="11",1,\n,,\n')
    words = (tmp_path / "r.tsv", "--gold", tmp_path / "g.csv", "--task", TASK5, "--output", tmp_path / "v.tsv")
    result = call(vote.main, *words)
    assert result.code == 0, result.err
    assert (tmp_path / "v.tsv").read_text() == "tweet_id\tClass\n11\t1\n12\t2\n"
    assert f"{tmp_path / 'r.tsv'}: 2 lines had one field more than the header" in result.out
    assert f"{tmp_path / 'g.csv'}: read as cp1252, because line 2 is not valid UTF-8" in result.out
    assert f"{tmp_path / 'g.csv'}: 1 empty line was left out" in result.out
    assert re.search(r"vote +1\.000", result.out)


def test_a_label_file_needs_of_a_row_only_what_is_read(tmp_path, call):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in (("Class", "tweet_id", "when"), (1, 11, datetime.date(2020, 1, 1)), (2, 12, None)):
        book.active.append(row)
    book.save(tmp_path / "a.xlsx")
    (tmp_path / "b.jsonl").write_text('{"tweet_id": 11, "Class": 1, "n": {}}\n{"tweet_id": 12, "Class": 2}\n')
    result = call(vote.main, tmp_path / "a.xlsx", tmp_path / "b.jsonl", "--output", tmp_path / "v.tsv")
    assert result.code == 0, result.err
    assert (tmp_path / "v.tsv").read_text() == "tweet_id\tClass\n11\t1\n12\t2\n"


def test_a_file_of_tweets_is_no_label_file(tmp_path, call):
    (tmp_path / "t.tsv").write_text("tweet_id\ttext\n11\tsecret\n", encoding="utf-8")
    result = call(vote.main, tmp_path / "t.tsv", "--output", tmp_path / "v.tsv")
    assert result.code == 2
    assert "t.tsv, line 1: no column Class or class or label among tweet_id, text" in result.err


def test_gold_beside_texts_without_ids_is_asked_for_their_numbers(tmp_path):
    """Texts taken for ids would be those of no tweet, and the order of two files need not be the same."""
    task = replace(read_task(TASK5), columns=Columns(["post text"], ["ade"]))
    path = tmp_path / "gold.csv"
    path.write_text("post text,ade\na b c,1\nd e f,3\n")
    with pytest.raises(InputError, match="are numbered from 0; add a column with these numbers"):
        read_labels(path, task)
    path.write_text("id,post text,ade\n0,a b c,1\n1,d e f,3\n")
    assert read_labels(path, task).ids.to_pylist() == ["0", "1"]
