"""What is trained: a recipe file and the command line -> the job's settings and each member's own.

A recipe has `shared:` settings once and under `members:` what differs. Settings are read as if they were flags, so
that they get the flags' types and checks; flags follow the shared settings, so that they win; a member's row has the
last word.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from smm4h.config.arguments import (
    DECIDED,
    DEFAULTS,
    GONE,
    JOB_NAMES,
    MEMBER_NAMES,
    RUN_NAMES,
    SECRET,
    JobSettings,
    _Parser,
    _parser,
)
from smm4h.config.job import Job, Member, with_columns
from smm4h.config.task import read_task
from smm4h.config.validation import _check_job, _check_member
from smm4h.utils.errors import InputError, nearest
from smm4h.utils.files import read_yaml


def _check_name(name: str, known: set[str], where: str = "") -> None:
    """Raises `InputError` unless `name`, which may begin with the dashes of a flag, is a setting of the user's."""
    bare = name.lstrip("-").replace("-", "_")
    dashes = "--" if name.startswith("--") else ""
    if bare in DECIDED:
        raise InputError(f"{where}{name} is decided by the job: {DECIDED[bare]}")
    if bare in known or bare == "help" or (dashes and bare.removeprefix("no_") in known):
        return
    if bare in GONE:
        raise InputError(f"{where}{name} is gone; use {GONE[bare]}")
    raise InputError(f"{where}there is no setting {name}{nearest(dashes + bare, [dashes + k for k in known])}")


def _flag_names(words: Sequence[str]) -> list[str]:
    return [word.split("=")[0] for word in words if word.startswith("--")]


def as_flags(settings: dict[str, Any]) -> list[str]:
    """YAML values as the words of a command line; keys without a value or with an empty list say nothing."""
    words = []
    for name, value in settings.items():
        if value is None or value == []:
            continue
        values = value if isinstance(value, list) else [value]
        words += [f"--{name}", *(json.dumps(v) if isinstance(v, dict) else str(v) for v in values)]
    return words


def read_command_line(argv: Sequence[str]) -> Job:
    """Reads recipe, task file and flags; raises `InputError` for whatever is wrong with any of them."""
    parser = _parser()
    if any(word in ("-h", "--help") for word in argv):
        parser.print_help()
        raise SystemExit(0)
    for flag in _flag_names(argv):
        _check_name(flag, JOB_NAMES | MEMBER_NAMES | RUN_NAMES)
    if not argv or argv[0].startswith("-"):
        raise InputError("name a recipe first, such as recipes/smm4h2020.yaml")
    recipe, flags = argv[0], list(argv[1:])
    shared, rows, lines = _read_recipe(recipe)
    common = [recipe, *as_flags(shared)]
    _parse(parser, common, f"{recipe}: ")
    values = _parse(parser, [*common, *flags], "")
    settings = JobSettings(**{name: values[name] for name in JOB_NAMES})
    if settings.task is None:
        raise InputError("name the task: --task tasks/task5.yaml")
    task = with_columns(read_task(settings.task), settings)
    members, notices = [], []
    for name, row in rows.items():
        where = f"{recipe}, line {lines[('members', name)]}, member {name}: "
        own = _parse(parser, [*common, *flags, *as_flags(row)], where)
        differing = {n: own[n] for n in MEMBER_NAMES | RUN_NAMES if own[n] != DEFAULTS[n]}
        members.append(Member(name, differing))
        _check_member(members[-1], task, where)
        notices += [
            f"member {name} keeps its own {flag[2:]} {own[flag[2:]]}" for flag in _flag_names(flags) if flag[2:] in row
        ]
    _check_job(settings, members, recipe)
    output_dir = values["output_dir"]
    if output_dir is None:
        raise InputError("name the folder for the results: --output_dir runs/task5")
    return Job(recipe, settings, task, Path(output_dir), members, notices, without_secrets(argv))


def without_secrets(words: Sequence[str]) -> list[str]:
    """A command line's words but for the tokens in it."""
    kept, skip = [], False
    for word in words:
        if skip:
            skip = False
            continue
        name = word.split("=")[0].lstrip("-").replace("-", "_") if word.startswith("--") else ""
        if name in SECRET:
            skip = "=" not in word
            continue
        kept.append(word)
    return kept


def _read_recipe(path: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]], dict[tuple[str, ...], int]]:
    content, lines = read_yaml(path)
    for key in content:
        if key not in ("shared", "members"):
            raise InputError(
                f"{path}, line {lines[(str(key),)]}: a recipe has `shared:` and `members:`, no {key}"
                f"{nearest(str(key), ('shared', 'members'))}"
            )
    shared, rows = content.get("shared") or {}, content.get("members") or {}
    if not isinstance(shared, dict) or not isinstance(rows, dict) or not rows:
        raise InputError(f"{path}: `shared:` with settings and `members:` with a row for each member are expected")
    for key in shared:
        _check_name(str(key), JOB_NAMES | MEMBER_NAMES | RUN_NAMES, f"{path}, line {lines[('shared', str(key))]}: ")
    for name, row in rows.items():
        line = lines[("members", str(name))]
        if not isinstance(row, dict):
            raise InputError(
                f"{path}, line {line}: member {name} needs settings, such as {{head: bigru, fold_seed: 42}}"
            )
        if not str(name).replace("-", "").replace("_", "").isalnum():
            raise InputError(f"{path}, line {line}: member {name} names a folder; use letters, digits, - and _")
        for key in row:
            where = f"{path}, line {lines[('members', str(name), str(key))]}: "
            if key in JOB_NAMES:
                raise InputError(f"{where}{key} is one for the whole job; move it to `shared:`")
            _check_name(str(key), MEMBER_NAMES | RUN_NAMES, where)
    return shared, {str(name): row for name, row in rows.items()}, lines


def _parse(parser: _Parser, words: list[str], where: str) -> dict[str, Any]:
    try:
        return vars(parser.parse_args(words))
    except InputError as error:
        raise InputError(f"{where}{error}") from None
    except argparse.ArgumentError as error:
        raise InputError(f"{where}{error}") from None
