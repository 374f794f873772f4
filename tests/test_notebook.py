"""docs/first_steps.ipynb: its cells run as they stand, in their order, and it was committed without outputs."""

import json
import re

import pytest
from conftest import ROOT

from smm4h.cli.main import COMMANDS

NOTEBOOK = ROOT / "docs" / "first_steps.ipynb"


def cells(kind: str) -> list[str]:
    content = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in content["cells"] if cell["cell_type"] == kind]


def test_it_is_committed_without_outputs_and_opens_in_any_jupyter():
    content = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert content["nbformat"] == 4
    for cell in content["cells"]:
        assert cell["id"]
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
    assert NOTEBOOK.stat().st_size < 20_000


def test_it_names_only_commands_that_there_are():
    text = "\n".join(cells("markdown"))
    assert set(re.findall(r"`smm4h ([a-z-]+)", text)) <= set(COMMANDS)


@pytest.mark.slow
def test_its_cells_lead_from_a_table_to_predictions_by_a_saved_decision(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # its commands run where nothing is installed, too
    space: dict = {"__name__": "__main__"}
    for number, source in enumerate(cells("code")):
        exec(compile(source, f"cell {number}", "exec"), space)
    predictions, board = space["predictions"], space["board"]
    assert predictions["label"].tolist()[0] == "effect"
    assert predictions[["p_none", "p_effect"]].sum(axis=1).tolist() == pytest.approx([1, 1, 1])
    assert set(board.index) == {"words", "words-svm", "final vote"}
    assert space["ensemble"].job.promise["target"] == "recall>=0.8"
    assert (tmp_path / "first_steps" / "job" / "report.html").is_file()
