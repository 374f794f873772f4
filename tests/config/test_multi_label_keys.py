"""What a multi-label task file may say."""

import pytest

from smm4h.config.task_file import read_task
from smm4h.models.label_spaces import LabelSetSpace
from smm4h.utils.errors import InputError

TASK = """name: t
labels: [A, B, C]
multi_label: {form}
columns: {{id: id, text: text{label}}}
{more}
"""


def task_with(tmp_path, form: str, more: str = "", label: str = ", label: labels"):
    path = tmp_path / "task.yaml"
    path.write_text(TASK.format(form=form, more=more, label=label))
    return read_task(path)


def test_a_task_file_names_the_form_of_its_label_sets(tmp_path):
    assert task_with(tmp_path, "true").space == LabelSetSpace(("A", "B", "C"))
    assert task_with(tmp_path, '"|"').space.separator == "|"
    by_column = task_with(tmp_path, "{A: has_a, B: has_b, C: has_c}", label="")
    assert by_column.columns.label == ["has_a"]
    assert by_column.label_column == "labels"
    assert task_with(tmp_path, "columns", label="").multi_label.columns == {"A": "A", "B": "B", "C": "C"}
    assert task_with(tmp_path, "false").multi_label is None


@pytest.mark.parametrize(
    ("form", "more", "message"),
    [
        ("true", "positive: [A]", "line 5: all labels of a multi-label task are scored; leave `positive:` out"),
        ("true", "by: language", "line 5: a multi-label task is scored by label"),
        ("true", "measure: accuracy", "line 5: accuracy is no measure of label sets; choose f1"),
        ('"/"', "", "line 3: '/': write true, what separates the labels"),
        ("{A: a, B: b}", "", "line 3: name a column of its own for each of A, B, C"),
        ("true", 'submission: {file: a.csv, columns: {id: id, A: "label: A"}}', "name a column for each label"),
        ("true", "submission: {file: a.csv, columns: [id, l], marks: [1, 1]}", "what stands for a given and for an"),
        ("false", "submission: {file: a.csv, columns: [id, l], joint: ;}", "only a multi-label task has several"),
    ],
)
def test_what_a_multi_label_task_cannot_have_is_said_with_its_line(tmp_path, form, more, message):
    with pytest.raises(InputError, match=r"task\.yaml, line") as caught:
        task_with(tmp_path, form, more)
    assert message in str(caught.value)
