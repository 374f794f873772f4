"""Task files with several subtasks: each is a task of its own, and all have one submission."""

import re

import pytest

from smm4h.config.task_file import find_task, read_subtasks, read_task
from smm4h.config.task_keys.subtasks import ONE_LABEL
from smm4h.utils.errors import InputError

STAGES = """name: stages
columns: {id: file, text: text}
files: {training: texts.csv, test: test.csv}
measure: macro_f1
subtasks:
  T: {labels: [T1, T2], columns: {label: T_label}, files: {training_labels: t.csv}}
  N: {labels: {N0: none, N1: }, positive: [N1], measure: f1, columns: {label: [N_label, label]}}
submission:
  file: answer.csv
  columns: {run: "1", N: N, file: id, T: T}
  labels: {T: {T1: "1", T2: "2"}}
  zip: both.zip
"""


def write(tmp_path, text: str):
    path = tmp_path / "task.yaml"
    path.write_text(text)
    return path


def test_a_subtask_has_the_common_keys_and_its_own_ones(tmp_path):
    path = write(tmp_path, STAGES)
    first, second = (read_task(f"{path}:{name}") for name in "TN")
    assert (first.name, first.measure, first.positive) == ("stages-T", "macro_f1", ["T1", "T2"])
    assert (second.name, second.measure, second.positive) == ("stages-N", "f1", ["N1"])
    assert (second.columns.id, second.columns.text, second.columns.label) == (["file"], ["text"], ["N_label", "label"])
    assert second.label_of_spelling == {"none": "N0"}
    assert [file.name for file in first.files["training_labels"]] == ["t.csv"]
    assert set(second.files) == {"training", "test"}


def test_all_subtasks_have_one_submission_and_each_alone_another_that_has_another_name(tmp_path):
    path = write(tmp_path, STAGES)
    subtasks = read_subtasks(path)
    assert subtasks.names == ["T", "N"]
    assert subtasks.submission.layout == {"run": "1", "N": "N", "file": "id", "T": "T"}
    assert (subtasks.submission.file, subtasks.submission.packing) == ("answer.csv", "both.zip")
    alone = read_task(f"{path}:T").submission
    assert alone.layout == {"run": "1", "file": "id", "T": "label"}
    assert (alone.file, alone.packing, alone.labels) == ("answer_T.csv", "both_T.zip", {"T1": "1", "T2": "2"})


def test_the_task_of_2026_with_three_labels_a_report_is_found_by_name():
    subtasks = read_subtasks("2026/task6")
    assert list(subtasks.submission.layout) == ["patient_filename", "T_label", "N_label", "M_label"]
    assert find_task("2026/task6:N").name == "task6.yaml:N"
    assert read_task("2026/task6:N").labels == ["N0", "N1", "N2", "N3"]
    assert read_subtasks("2026/task5") is None


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("", "", r"line 5: the task has subtasks; name one of them, such as .*task.yaml:T"),
        (
            "  N: {labels: {N0: none, N1: }, positive",
            "  N: {lables: [a, b], positive",
            r"line 7: a subtask has no key lab",
        ),
        ("positive: [N1]", "positive: [N2]", "line 7: N2 is none of the labels N0, N1"),
        ("  N: {labels", "  submission: {labels", "line 7: subtask 'submission' names a folder"),
        ("T: T}", "T: label}", "line 10: exactly one of the columns must hold the subtask T"),
        ("T: {T1", "M: {T1", "line 8: no subtask M; there are N, T"),
        ("measure: f1", "name: f1", "line 7: name is common to all subtasks; move it out of subtask N"),
        ("  zip: both.zip", "  validation: true", "line 12: validation: a task with subtasks hands in test posts only"),
        ("measure: macro_f1\n", "measure: macro_f1\ncolums: {}\n", r"line 5: a task has no key colums \(did you mean"),
        ("positive: [N1]", "multi_label: {separator: ';'}", "line 7: {}"),
        ("measure: macro_f1\n", "multi_label: {separator: ';'}\n", "line 4: {}"),
        ('T2: "2"', 'T2: "1"', "line 11: two labels would be written alike"),
    ],
)
def test_a_slip_in_a_file_with_subtasks_is_answered_with_its_line(tmp_path, old, new, message):
    path = write(tmp_path, STAGES.replace(old, new) if old else STAGES)
    read = read_task if old == "" else read_subtasks
    with pytest.raises(InputError, match=message.replace("{}", re.escape(ONE_LABEL))):
        read(path)


def test_a_subtask_of_a_task_without_subtasks_is_refused(tmp_path):
    with pytest.raises(InputError, match="no subtasks, and T is meant to be one; leave `:T` out"):
        read_task("2026/task5:T")
    with pytest.raises(InputError, match="line 5: no subtask M; there are T, N"):
        read_task(f"{write(tmp_path, STAGES)}:M")
