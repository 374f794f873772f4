"""What the README names exists: files, flags, make targets, figures of Table 2."""

import re

import pytest
from conftest import ROOT

from smm4h.config.arguments import JOB_NAMES, MEMBER_NAMES, RUN_NAMES
from smm4h.utils.files import read_yaml

README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"^(?:\$ )?((?:make|python|accelerate|git|pip)\b[^\n]*(?:\\\n[^\n]*)*)", README, re.MULTILINE)


def test_every_file_it_names_is_there():
    named = set(re.findall(r"(?<![\w/.-])((?:[\w.-]+/)*[\w-]+\.(?:py|ya?ml|sh|md|txt|cff))\b", README))
    outputs = re.compile(r"^(runs|votes|submission|DIR|pseudo)")
    missing = [n for n in named if not outputs.match(n) and not list(ROOT.glob(n)) and not list(ROOT.glob(f"*/{n}"))]
    assert not missing


def test_every_flag_it_names_is_known():
    with_flags = [
        ROOT / "ensemble.py",
        ROOT / "pseudo_label.py",
        ROOT / "predict.py",
        ROOT / "publish.py",
        ROOT / "distill.py",
        *(ROOT / "benchmarks").glob("*.py"),
    ]
    scripts = " ".join(path.read_text() for path in with_flags)
    launcher = {"config_file", "num_processes", "max_restarts", "help", "array", "gres", "time", "wait"}  # and sbatch
    flags = set(re.findall(r"--([a-z0-9_]+)", README))
    known = JOB_NAMES | MEMBER_NAMES | RUN_NAMES | launcher | set(re.findall(r'"--([a-z_]+)"', scripts))
    assert not {flag for flag in flags - known if flag.removeprefix("no_") not in known}


def test_every_make_target_it_names_is_there():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"\bmake ([a-z]+)", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("member", read_yaml(ROOT / "recipes" / "smm4h2020.yaml")[0]["members"])
def test_its_table_2_is_the_recipes(member):
    row = read_yaml(ROOT / "recipes" / "smm4h2020.yaml")[0]["members"][member]
    line = next(line for line in README.splitlines() if f"| `{member}` |" in line)
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[2:] == [
        f"`{row['head']}`",
        str(row["fold_seed"]),
        "cleaned" if row.get("cleaning") else "raw",
        "yes" if row.get("pseudo_labels") else "no",
        str(row.get("learning_rate", "3e-5")),
    ]


def test_the_commands_are_there():
    text = "\n".join(COMMANDS)
    for script in (
        "run_classification.py",
        "ensemble.py",
        "pseudo_label.py",
        "predict.py",
        "publish.py",
        "distill.py",
        "report.py",
    ):
        assert script in text
