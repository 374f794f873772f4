"""The installed package: its import, its command, and answers that come before anything slow is imported."""

import doctest
import importlib.metadata
import re
import sys
from pathlib import Path

import pytest
from conftest import INVENTED, RECIPE, TASK5, CommandResult, shell

import smm4h
from smm4h.cli.flags import CommandParser
from smm4h.cli.main import COMMANDS
from smm4h.cli.train import main
from smm4h.config.arguments import FIELDS
from smm4h.inference import loading

MISSPELT = {
    "run_classification.py": ("--lerning_rate", "--learning_rate"),
    "ensemble.py": ("--metod", "--method"),
    "pseudo_label.py": ("--fracton", "--fraction"),
    "predict.py": ("--colums", "--columns"),
    "label_next.py": ("--sugest", "--suggest"),
    "publish.py": ("--to_foldr", "--to_folder"),
    "distill.py": ("--lerning_rate", "--learning_rate"),
    "report.py": ("--halp", "--help"),
}
WITHOUT_TORCH = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    assert "torch" not in sys.modules, "torch was imported"
"""


def without_torch(script: str, *words) -> CommandResult:
    """Run a script in a process that fails if the script imports torch."""
    return shell(sys.executable, "-c", WITHOUT_TORCH, script, *words)


@pytest.mark.slow
def test_importing_the_package_imports_no_torch():
    result = shell(sys.executable, "-c", "import sys, smm4h; assert 'torch' not in sys.modules")
    assert result.code == 0, result.err


def test_the_version_is_that_of_the_installed_package():
    assert smm4h.__version__ == importlib.metadata.version("smm4h")


def test_the_examples_of_a_loaded_ensemble_run(tuned_job):
    (examples,) = doctest.DocTestFinder(recurse=False).find(
        loading.LoadedEnsemble, "LoadedEnsemble", globs={"folder": tuned_job.folder}
    )
    assert len(examples.examples) >= 6
    assert doctest.DocTestRunner().run(examples).failed == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", [[Path(sys.executable).parent / "smm4h"], [sys.executable, "-m", "smm4h"]], ids=["smm4h", "python -m"]
)
def test_the_command_lists_its_subcommands(command):
    result = shell(*command)
    assert result.code == 0, result.err
    assert re.findall(r"^  ([a-z-]+)  ", result.out, re.MULTILINE) == list(COMMANDS)
    assert shell(*command, "--version").out == f"smm4h {smm4h.__version__}\n"


@pytest.mark.slow
def test_an_unknown_subcommand_is_answered_with_the_nearest():
    result = shell(sys.executable, "-m", "smm4h", "predikt", "runs/task5")
    assert result.code == 2
    assert "there is no command predikt (did you mean predict?)" in result.err


@pytest.mark.slow
@pytest.mark.parametrize("script", MISSPELT)
def test_a_misspelt_flag_is_answered_with_the_nearest_before_torch_is_imported(script):
    misspelt, nearest = MISSPELT[script]
    result = without_torch(script, misspelt, "1")
    assert result.code == 2, result.err
    assert f"{misspelt} (did you mean {nearest}?)" in result.err
    assert "Traceback" not in result.err


@pytest.mark.slow
def test_a_missing_data_file_is_answered_before_torch_is_imported(tmp_path):
    words = [RECIPE, "--task", TASK5, "--data_dir", "nowhere", "--output_dir", tmp_path, "--model_name_or_path", "x"]
    result = without_torch("run_classification.py", *words)
    assert result.code == 2, result.err
    assert result.err.startswith("error: nowhere/task5_training.tsv is not there")
    result = without_torch("run_classification.py", *words, "--data_dir", INVENTED, "--gold_file", "gold.tsv")
    assert result.code == 2, result.err
    assert "error: gold.tsv is not there" in result.err


def flags_of(text: str) -> list[str]:
    """Return the flags that a help text lists, each at the beginning of a line."""
    return re.findall(r"^  --(\w+)", text, re.MULTILINE)


@pytest.mark.slow
def test_help_fits_a_few_screens_and_lists_each_common_flag_once():
    result = without_torch("run_classification.py", "--help")
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert len(lines) <= 110
    assert max(map(len, lines)) <= 110
    assert sorted(flags_of(result.out)) == sorted(name for name, field in FIELDS.items() if field.metadata["group"])
    assert "(default: None)" not in result.out
    assert "(None)" not in result.out


def test_a_usage_line_names_the_command_as_it_is_called(monkeypatch):
    for words, name in ((["/bin/smm4h", "report", "--help"], "smm4h report"), (["report.py", "--help"], "report.py")):
        monkeypatch.setattr(sys, "argv", words)
        assert f"{name} [-h]" in CommandParser("A command.").format_usage()


def test_help_all_lists_every_setting_once(call):
    result = call(main, "--help-all")
    assert sorted(flags_of(result.out)) == sorted(FIELDS)


def test_list_needs_nothing_but_the_folder_of_a_job(finished_job, call):
    result = call(main, "--list", "--output_dir", finished_job.folder)
    assert result.code == 0, result.err
    assert "45 done, 0 running, 0 failed, 0 missing" in result.out
