"""Each package imports only what stands below it: docs/architecture.md."""

import ast
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from smm4h.cli.main import COMMANDS

PACKAGE = ROOT / "smm4h"
PACKAGES = sorted(path.parent for path in PACKAGE.rglob("*/__init__.py"))
BASE = {"metrics", "set_metrics", "utils", "models", "config", "data"}
MAY_IMPORT = {
    "metrics": set(),
    "set_metrics": {"metrics"},
    "utils": set(),
    "models": set(),
    "config": {"metrics", "set_metrics", "utils", "models"},
    "data": {"metrics", "set_metrics", "utils", "models", "config"},
    "training": BASE,
    "ensemble": BASE,
    "parallel": BASE | {"training"},
    "inference": BASE | {"training", "ensemble"},
    "reporting": BASE | {"training", "ensemble", "inference"},
    "cli": BASE | {"training", "ensemble", "parallel", "inference", "reporting"},
    "__init__": {"inference"},
    "__main__": {"cli"},
}
PUBLISHED = {*sys.stdlib_module_names, "torch", "numpy", "transformers", "heads"}
PUBLISHED |= {"emoji", "peft", "bitsandbytes"}  # imported by what needs them alone, and asked for in one sentence


def imports(source: str) -> list[str]:
    """Return the dotted names of all that a file imports, at any level; of `from a import b` it is `a.b`."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            names += [f"{module}.{alias.name}" for alias in node.names]
    return names


def own_package(path: Path) -> str:
    """Return the package of a file of smm4h, or its own name where it is in none."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def upward_imports(package: str, source: str) -> list[str]:
    """Return what a package's file imports from above or beside the package, and all relative imports."""
    allowed = MAY_IMPORT[package] | {package, "__version__"}
    return [
        name
        for name in imports(source)
        if name.startswith(".") or (name.split(".")[0] == "smm4h" and not allowed.intersection(name.split(".")[1:2]))
    ]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path):
    assert upward_imports(own_package(path), path.read_text()) == []


@pytest.mark.parametrize(
    "path", [*sorted((PACKAGE / "models").glob("*.py")), ROOT / "heads.py"], ids=lambda path: path.name
)
def test_what_is_published_needs_only_torch_numpy_and_transformers(path):
    names = [name for name in imports(path.read_text()) if not name.startswith("smm4h.models.")]
    assert {name.split(".")[0] for name in names} <= PUBLISHED


def test_every_package_has_a_place_in_the_order():
    assert {path.name for path in PACKAGES if path.parent == PACKAGE} | {
        path.stem for path in PACKAGE.glob("*.py")
    } == set(MAY_IMPORT)


@pytest.mark.parametrize("folder", PACKAGES, ids=lambda folder: str(folder.relative_to(PACKAGE)))
def test_packages_are_of_a_handy_size_and_re_export_nothing(folder):
    assert (folder / "__init__.py").read_text() == ""
    modules = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
    at_most = len(COMMANDS) + 5 if folder.name == "cli" else 10  # main, flags, and what `train` does besides
    assert 3 <= len(modules) <= at_most


@pytest.mark.parametrize(
    ("package", "line"),
    [
        ("data", "from smm4h.training.run import train_run"),
        ("data", "from smm4h import training"),
        ("data", "import smm4h.training.run"),
        ("data", "def f():\n    from smm4h.training import run"),
        ("training", "from smm4h.ensemble.fitting import fit_rule"),
        ("models", "from smm4h.metrics import f1"),
        ("utils", "import smm4h"),
        ("config", "from ..data import splits"),
    ],
)
def test_a_planted_upward_import_is_reported(package, line):
    assert len(upward_imports(package, f"import os\n{line}\n")) == 1


@pytest.mark.parametrize(
    ("package", "line"),
    [
        ("training", "from smm4h.data.splits import load_splits"),
        ("training", "from smm4h import metrics"),
        ("training", "from smm4h.training import checkpoints"),
        ("cli", "import smm4h.parallel.pool"),
        ("cli", "from smm4h import __version__"),
        ("models", "from heads import Head"),
    ],
)
def test_a_downward_import_is_not_reported(package, line):
    assert upward_imports(package, line) == []


def test_text_is_read_and_written_as_utf_8_whatever_the_locale():
    """By default it would be in the locale's encoding, which differs from host to host."""
    for path in (*PACKAGE.rglob("*.py"), *ROOT.glob("*.py")):
        calls = (node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call))
        for call in calls:
            name = call.func.attr if isinstance(call.func, ast.Attribute) else ""
            modes = [arg.value for arg in call.args if isinstance(arg, ast.Constant)]
            is_text = name in ("read_text", "write_text") or (name == "open" and modes in (["r"], ["w"], ["a"]))
            has_encoding = any(keyword.arg == "encoding" for keyword in call.keywords)
            assert has_encoding or not is_text, f"{path}, line {call.lineno}: no encoding"
