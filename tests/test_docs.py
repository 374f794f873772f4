"""README, docs/ and CONTRIBUTING name only what exists: files, flags, make targets, links; and their commands run."""

import csv
import re
import shlex
import sys
from pathlib import Path

import pytest
from conftest import ROOT, shell

from smm4h.cli.main import COMMANDS
from smm4h.config.arguments import DECIDED, FIELDS
from smm4h.utils.files import read_yaml

PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])
FILE = re.compile(r"(?<![\w/.*-])((?:[\w.-]+/)*[\w-]+\.(?:py|ya?ml|sh|md|toml|txt|cff|svg|ipynb))\b(?![/*])")
OUTPUTS = re.compile(r"^(runs|votes|submission|published|DIR|pseudo|my_task|tweets|members|round-|seed-)")
FLAG = re.compile(r"(?<![\w-])--([a-z][a-z0-9_-]+)")
# Of accelerate, Slurm, pip, pytest, ruff and hf.
OTHER_TOOLS = {"config_file", "num_processes", "num_machines", "machine_rank", "max_restarts", "multi_gpu", "cpu"}
OTHER_TOOLS |= {"main_process_ip", "main_process_port", "help", "help-all", "version", "array", "gres", "time", "wait"}


def names(pages):
    return [pytest.param(page, id=page.name) for page in pages]


def known_flags() -> set[str]:
    """Flags of all commands, benchmarks and the campaigns of faults and damage."""
    sources = [
        *(ROOT / "smm4h" / "cli").glob("*.py"),
        *(ROOT / "benchmarks").glob("*.py"),
        ROOT / "tests" / "faults.py",
        ROOT / "tests" / "damage.py",
    ]
    declared = set(re.findall(r'"--([a-z_-]+)"', " ".join(path.read_text() for path in sources)))
    return set(FIELDS) | set(DECIDED) | OTHER_TOOLS | declared


@pytest.mark.parametrize("page", names(PAGES))
def test_every_file_that_a_page_names_is_there(page):
    named = set(FILE.findall(page.read_text()))
    missing = [
        name
        for name in named
        if not OUTPUTS.match(name) and not (ROOT / name).exists() and not list(ROOT.glob(f"[!.]*/{name}"))
        if not list((ROOT / "smm4h").rglob(Path(name).name)) and not (page.parent / name).exists()
    ]
    assert not missing


@pytest.mark.parametrize("page", names(PAGES))
def test_every_flag_that_a_page_names_is_known(page):
    known = known_flags()
    assert not {flag for flag in FLAG.findall(page.read_text()) if not {flag, flag.removeprefix("no_")} & known}


@pytest.mark.parametrize("page", names(PAGES))
def test_every_make_target_that_a_page_names_is_there(page):
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^(?:\$ )?make ([a-z]+)|`make ([a-z]+)", page.read_text(), re.MULTILINE):
        assert re.search(rf"^{''.join(target)}:", makefile, re.MULTILINE), target


def anchors(page: Path) -> set[str]:
    """The anchors that a Markdown page's headings have on code hosts."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", names(PAGES))
def test_every_link_of_a_page_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        linked = page if not path else page.parent / path
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


@pytest.mark.parametrize("member", read_yaml(ROOT / "recipes" / "smm4h2020.yaml")[0]["members"])
def test_the_documented_table_2_is_the_recipes(member):
    row = read_yaml(ROOT / "recipes" / "smm4h2020.yaml")[0]["members"][member]
    text = (ROOT / "docs" / "recipes.md").read_text()
    line = next(line for line in text.splitlines() if f"| `{member}` |" in line)
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[2:] == [
        f"`{row['head']}`",
        str(row["fold_seed"]),
        "cleaned" if row.get("cleaning") else "raw",
        "yes" if row.get("pseudo_labels") else "no",
        str(row.get("learning_rate", "3e-5")),
    ]


def test_the_readme_fits_one_page_and_names_every_command():
    text = (ROOT / "README.md").read_text()
    assert len(text.split()) <= 1000
    for command in COMMANDS:
        assert command in text
    documents = "".join(page.read_text() for page in PAGES)
    for script in ROOT.glob("*.py"):
        assert script.name in documents


def own_data_commands() -> list[list[str]]:
    """The commands under the README's heading on own data, as words."""
    section = (ROOT / "README.md").read_text().split("## Your own data")[1]
    block = re.search(r"```bash\n(.*?)```", section, re.DOTALL)[1].replace("\\\n", " ")
    return [shlex.split(line, comments=True) for line in block.splitlines() if line.strip()]


@pytest.mark.slow
def test_the_readmes_commands_for_own_data_run_on_a_small_file(tmp_path, tiny_encoder):
    """In a folder that has what a checkout has; with an encoder and settings that take seconds."""
    for name in ("recipes", "tasks", *(path.name for path in ROOT.glob("*.py"))):
        (tmp_path / name).symlink_to(ROOT / name)
    task = read_yaml(ROOT / "tasks" / "own_data.yaml")[0]
    id_name, text, label = (task["columns"][part] for part in ("id", "text", "label"))
    rows = [
        [f"{n}", f"my {'pain' if n % 4 == 0 else 'baby'} word{n % 7} was {n}", task["labels"][n % 4 == 0]]
        for n in range(80)
    ]
    for name, header, width in (("tweets.csv", [id_name, text, label], 3), ("new_tweets.csv", [id_name, text], 2)):
        with (tmp_path / name).open("w", newline="") as stream:
            csv.writer(stream).writerows([header, *(row[:width] for row in rows)])
    quick = ["--model_name_or_path", str(tiny_encoder), "--n_folds", "2", "--num_train_epochs", "1", "--min_steps", "2"]
    commands = own_data_commands()
    assert len(commands) == 4
    for words in commands:
        is_training = "run_classification.py" in words
        words = [sys.executable, *words[1:]] if words[0] == "python" else words
        result = shell(*words, *([*quick, "--bf16", "false", "--use_cpu"] if is_training else []), cwd=tmp_path)
        assert result.code == 0, result.err
    assert len((tmp_path / "labels.csv").read_text().splitlines()) == 81
    assert (tmp_path / "published" / "mine" / "config.json").exists()
