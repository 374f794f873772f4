"""Task files: a slip is answered with its line."""

import pytest

from smm4h.config.task import read_task
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
        ("name: t\nlabels: [a, b]\nmeasure: f2\ncolumns: {text: t, label: l}\n", "line 4|line 3: no measure f2"),
        ("name: t\nname: u\n", "line 2: name stands here a second time"),
        ("name: [\n", "this is not YAML"),
    ],
)
def test_a_malformed_task_file_names_the_line(tmp_path, content, message):
    path = tmp_path / "task.yaml"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        read_task(path)
