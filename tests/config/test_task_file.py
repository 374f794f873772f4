"""Task files: found by name, a slip is answered with its line, each key is read."""

import pytest
from conftest import ROOT, TASK5

from smm4h.config.task_file import find_task, known_tasks, read_subtasks, read_task
from smm4h.utils.errors import InputError


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name: t\nlabels: [yes, no]\ncolumns: {text: t, label: l}\n", "line 2: True is not a name here"),
        (
            "name: t\nlabels: [a, b]\ncolums: {text: t}\n",
            r"line 3: a task has no key colums \(did you mean columns\?\)",
        ),
        ("name: t\nlabels: [a, b]\npositive: [c]\ncolumns: {text: t, label: l}\n", "line 3: c is none of the labels"),
        ("name: t\nlabels: [a, b]\nmeasure: g2\ncolumns: {text: t, label: l}\n", "line 4|line 3: no measure g2"),
        (
            "name: t\nlabels: [a, b]\nofficial_test_rows: all\ncolumns: {text: t, label: l}\n",
            "line 3: a number of rows is expected",
        ),
        (
            "name: t\nlabels: [a, b]\ncontext: t\ncolumns: {text: t, label: l}\n",
            "line 3: this is the column of the text",
        ),
        ("name: t\nlabels: [a, b]\nby: l\ncolumns: {text: t, label: l}\n", "line 3: this is the column of the label"),
        ("name: t\nname: u\n", "line 2: name stands here a second time"),
        ("name: [\n", "this is not YAML"),
    ],
)
def test_a_malformed_task_file_names_the_line(tmp_path, content, message):
    path = tmp_path / "task.yaml"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        read_task(path)


def task_of(tmp_path, more: str, labels: str = "[a, b]"):
    path = tmp_path / "task.yaml"
    path.write_text(f"name: t\nlabels: {labels}\ncolumns: {{text: t, label: l}}\n{more}\n")
    return read_task(path)


def test_a_task_is_found_by_its_name_in_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("task5", "2020/task5", "2020/task5.yaml", "tasks/task5.yaml"):
        assert read_task(name) == read_task(TASK5)
    with pytest.raises(
        InputError, match=r"--task 2020/taks5: there is no such task file \(did you mean 2020/task5\?\)"
    ):
        find_task("2020/taks5")
    (tmp_path / "2024" / "task5").mkdir(parents=True)
    assert read_task("2024/task5").name == "2024_task5"  # a folder of data with a task's name is no task file
    with pytest.raises(InputError, match=r"--task 2024: there is no such task file"):
        find_task("2024")
    (tmp_path / "task5").write_bytes((ROOT / "tasks" / "task1.yaml").read_bytes())
    assert read_task("task5").name == "task1"  # a file of the user's own wins


@pytest.mark.parametrize("name", known_tasks())
def test_every_task_file_that_comes_along_can_be_read(name):
    subtasks = read_subtasks(name)
    for one in [f"{name}:{subtask}" for subtask in subtasks.names] if subtasks else [name]:
        assert read_task(one).n_classes > 1


def test_labels_may_have_several_spellings(tmp_path):
    task = task_of(tmp_path, "positive: ADE", labels="{noADE: [NoADE, noADE, none], ADE: }")
    assert task.labels == ["noADE", "ADE"]
    assert task.label_of_spelling == {"NoADE": "noADE", "none": "noADE"}
    with pytest.raises(InputError, match="line 2: x is a spelling of a and of b"):
        task_of(tmp_path, "", labels="{a: x, b: [x]}")


def test_a_part_is_one_file_or_several_with_their_sources(tmp_path):
    task = task_of(
        tmp_path, "files: {training: a.tsv, test: {tweets: t.tsv, reviews: r.tsv}, validation: [b.tsv, c.tsv]}"
    )
    assert task.files["training"] == [("a.tsv", "")]
    assert task.files["test"] == [("t.tsv", "tweets"), ("r.tsv", "reviews")]
    assert task.files["validation"] == [("b.tsv", ""), ("c.tsv", "")]
    with pytest.raises(InputError, match="line 4: 1 training files, but 2 of their labels"):
        task_of(tmp_path, "files: {training: a.tsv, training_labels: [b.tsv, c.tsv]}")


def test_the_first_of_several_measures_is_the_metric_and_its_heading_says_of_which_labels(tmp_path):
    task = task_of(tmp_path, "positive: [b]\nmeasure: [macro_f1, f1]")
    assert (task.measure, task.further_measures) == ("macro_f1", ["f1"])
    assert task.measured == "macro_f1 of all labels"
    stance = task_of(tmp_path, "positive: [b]\nmeasure: macro_f1_positive\nby: claim\naverage: groups")
    assert stance.measured == "macro_f1_positive of b, mean over claim"
    assert task_of(tmp_path, "positive: [b]\nby: lang\nunscored: x_*").measured == "f1 of b without x_*"


@pytest.mark.parametrize("more", ["average: groups", "unscored: [a]"])
def test_groups_need_their_column(tmp_path, more):
    with pytest.raises(InputError, match="line 4: name the column that holds the groups, such as `by: language`"):
        task_of(tmp_path, more)
