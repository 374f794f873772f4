"""Recipe file and command line -> the job's settings and each member's own.

A recipe has `shared:` settings once and under `members:` what differs. The order of precedence is: defaults, `shared:`,
flags, a member's row.
"""

import json
import os
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass
from pathlib import Path
from typing import Any, Literal

from smm4h.config.arguments import (
    DECIDED,
    DEFAULTS,
    FIELDS,
    JOB_FIELDS,
    MEMBER_FIELDS,
    PRESETS,
    RENAMED,
    SECRET,
    JobSettings,
)
from smm4h.config.decision import parse_decision
from smm4h.config.job import Job, Member, with_columns
from smm4h.config.output_paths import JOB_NAMES
from smm4h.config.task_file import find_task, read_task
from smm4h.config.validation import check_group_cuts, check_job, check_member, check_range
from smm4h.utils.errors import InputError, nearest
from smm4h.utils.files import expand_home, read_yaml

PATHS = (
    *("task", "data_dir", "train_file", "validation_file", "test_file", "gold_file", "unlabelled_file", "output_dir"),
    *("train_labels_file", "validation_labels_file", "init", "extra_train_file", "cache_dir", "model_name_or_path"),
)  # settings whose leading `~` is the home folder
RECIPES = Path(__file__).parents[1] / "recipes"  # a link to the checkout's folder; pip installs what it leads to
LONGEST_MEMBER = 200  # bytes of a name
YES, NO = ("true", "t", "yes", "y", "1"), ("false", "f", "no", "n", "0")
Values = dict[str, Any]  # settings by the names of their flags


@dataclass(frozen=True)
class Recipe:
    """The content of a recipe file, checked: values that differ by name, for all members and for each."""

    path: str
    shared: Values
    rows: dict[str, Values]
    lines: Mapping[tuple[str, ...], int]

    def where(self, *keys: str) -> str:
        return f"{self.path}, line {self.lines[keys]}: "


def read_command_line(words: Sequence[str]) -> Job:
    """Read recipe, task file and flags; raise `InputError` for whatever is wrong with any of them."""
    flags, rest = read_flags(words)
    only_reads = flags.get("list") or flags.get("verify")
    if not rest and only_reads and flags.get("output_dir"):  # a begun job's folder has its plan
        return _job_without_recipe(flags, words)
    if flags.get("init"):
        return _job_without_recipe(flags, words, *rest[:1])
    recipe = read_recipe(find_recipe(rest, flags.get("preset")))
    common = {**recipe.shared, **flags}
    if "predictions" in common:
        raise InputError("predictions are those of one member; write them into its row of the recipe")
    settings = JobSettings(**{JOB_FIELDS[flag].name: value for flag, value in common.items() if flag in JOB_FIELDS})
    if settings.task is None and not (settings.list_runs or settings.verify):
        raise InputError("name the task: --task tasks/task5.yaml")
    if not (settings.output_dir or "").strip():
        raise InputError("name the folder for the results: --output_dir runs/task5")
    settings.task = settings.task and str(find_task(settings.task))
    task = with_columns(read_task(settings.task), settings) if settings.task else None
    if task is not None:
        task.checked_decision(parse_decision(settings.decision))
        check_group_cuts(settings, task)
    members, notices = [], []
    for name, row in recipe.rows.items():
        values = {flag: value for flag, value in {**common, **row}.items() if flag in MEMBER_FIELDS}
        member = Member(name, {flag: value for flag, value in values.items() if value != DEFAULTS[flag]})
        if task is not None:
            check_member(member, task, f"{recipe.path}, line {recipe.lines[('members', name)]}, member {name}: ")
        members.append(member)
        notices += [f"member {name} keeps its own {flag} {row[flag]}" for flag in flags if flag in row]
    check_job(settings, members, recipe.path)
    lines = {name: recipe.lines[("members", name)] for name in recipe.rows}
    own_words = without_secrets(words)
    return Job(recipe.path, settings, task, Path(settings.output_dir), members, notices, own_words, lines=lines)


def find_recipe(words: Sequence[str], preset: str | None) -> str:
    """Return the path of the recipe that the command line names, by a file, a recipe's name or a preset.

    Args:
        words: those that belong to no flag.

    Raises:
        InputError: for none, for several, and for a name that there is not.
    """
    known = _known_recipes()
    if preset and words:
        raise InputError(f"--preset {preset} is a recipe, and {words[0]} is another; name one of them")
    if preset:
        return str(known[PRESETS[preset]])
    if not words:
        raise InputError(f"name a recipe first, such as recipes/smm4h2020.yaml, or --preset {'|'.join(PRESETS)}")
    if len(words) > 1:
        raise InputError(f"unrecognized arguments: {' '.join(words[1:])}")
    path = expand_home(words[0])
    name = Path(path).name.removesuffix(".yaml")
    if name in known and _may_be_known(Path(path)):
        return str(known[name])
    return path


def _job_without_recipe(flags: Values, words: Sequence[str], recipe: str = "") -> Job:
    """Return a job that is known by its flags alone, for `--list`, `--verify` and `--init`; the recipe is not read."""
    settings = JobSettings(**{JOB_FIELDS[flag].name: value for flag, value in flags.items() if flag in JOB_FIELDS})
    return Job(recipe, settings, None, Path(settings.output_dir or "runs"), [], [], without_secrets(words))


def read_flags(words: Sequence[str]) -> tuple[Values, list[str]]:
    """Return the settings that a command line's flags give, by name, and its words that belong to no flag.

    Flags are written `--name value`, `--name=value`, `--na-me value`; of truth values also `--name` and `--no_name`.
    """
    values: Values = {}
    rest: list[str] = []
    words = list(words)
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            rest.append(word)
            continue
        given, has_value, inline = word.partition("=")
        name, negated = _known_name(given)
        kind = FIELDS[name].type
        if negated:
            values[name] = False
            continue
        following = [inline] if has_value else []
        while words and not has_value and not _is_flag(words[0]) and _takes(name, len(following), words[0]):
            following.append(words.pop(0))
        if not following and not _is_bool(kind):
            raise InputError(f"{given}: expected {'at least ' if _is_list(kind) else ''}one argument")
        text = following if _is_list(kind) else following[0] if following else "true"
        values[name] = parse_value(name, text)
    return values, rest


def _is_flag(word: str) -> bool:
    return word.startswith("--")


def _takes(name: str, n_taken: int, word: str) -> bool:
    """Whether a flag takes one more word; of truth values only a word that says yes or no, of files no recipe."""
    kind = FIELDS[name].type
    if _is_bool(kind):
        return n_taken == 0 and word.lower() in YES + NO
    return n_taken == 0 or (_is_list(kind) and not (name in PATHS and _is_recipe(word)))


def _is_recipe(word: str) -> bool:
    """Whether a word names a recipe, which may stand behind a flag that takes several files."""
    path = Path(word)
    return path.suffix in (".yaml", ".yml") or (_may_be_known(path) and path.stem in _known_recipes())


def _known_recipes() -> dict[str, Path]:
    """Return the recipes that come with this project, by name."""
    return {path.stem: path for path in sorted(RECIPES.glob("*.yaml"))}


def _may_be_known(path: Path) -> bool:
    """Whether a path that is not there may stand for a recipe of this project."""
    return not path.exists() and path.parent in (Path(), Path("recipes"))


def _known_name(flag: str) -> tuple[str, bool]:
    """Return the setting that a flag names, and whether the flag says `--no_`."""
    check_name(flag)
    bare = flag.lstrip("-").replace("-", "_")
    return (bare, False) if bare in FIELDS else (bare.removeprefix("no_"), True)


def check_name(name: str, where: str = "") -> None:
    """Raise `InputError` unless `name`, which may begin with the dashes of a flag, is a setting of the user's."""
    bare = name.lstrip("-").replace("-", "_")
    dashes = "--" if name.startswith("--") else ""
    if bare in DECIDED:
        raise InputError(f"{where}{name} is decided by the job: {DECIDED[bare]}")
    if bare in FIELDS or (dashes and bare.startswith("no_") and _is_negatable(bare.removeprefix("no_"))):
        return
    if bare in RENAMED:
        raise InputError(f"{where}{name} is gone; use {RENAMED[bare]}")
    known = [f"{dashes}{flag}" for flag in (*FIELDS, *(["help", "help-all"] if dashes else []))]
    raise InputError(f"{where}there is no setting {name}{nearest(dashes + bare, known)}")


def _is_negatable(name: str) -> bool:
    return name in FIELDS and _is_bool(FIELDS[name].type)


def _is_list(kind: Any) -> bool:
    return typing.get_origin(kind) is list


def without_none(kind: Any) -> Any:
    """Return T of `T | None`."""
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return next(part for part in typing.get_args(kind) if part is not type(None))
    return kind


def _is_bool(kind: Any) -> bool:
    return without_none(kind) is bool


def parse_value(name: str, value: Any, where: str = "") -> Any:
    """Return a setting's value in its type, of a YAML value or of the words of a flag.

    Raises `InputError`, with `where` (file and line) before it, for a value of another type, none of the choices, or
    out of range.
    """
    setting: Field = FIELDS[name]
    kind, flag = without_none(setting.type), f"{where}--{name}: "
    if _is_list(kind):
        values = value if isinstance(value, list) else [value]
        if any(isinstance(one, bool) for one in values):
            raise InputError(f"{flag}put yes, no and the like in quotes, which YAML reads as truth values")
        (element,) = typing.get_args(kind)
        parsed: Any = [_parse_one(element, one, setting.metadata["choices"], flag) for one in values]
        parsed = [expand_home(one) for one in parsed] if name in PATHS else parsed
    else:
        if isinstance(value, list):
            raise InputError(f"{flag}one value is expected, not a list")
        parsed = _parse_one(kind, value, None, flag)
        parsed = expand_home(parsed) if name in PATHS else parsed
        if canonical := setting.metadata["parse"]:
            try:
                parsed = canonical(parsed)
            except InputError as error:
                raise InputError(f"{flag}{error}") from None
    check_range(name, parsed, where)
    return parsed


def _parse_one(kind: Any, value: Any, choices: Sequence[str] | None, where: str) -> Any:
    if typing.get_origin(kind) is Literal:
        kind, choices = str, typing.get_args(kind)
    text = json.dumps(value) if isinstance(value, dict) else str(value)
    if kind is bool:
        if text.lower() in YES + NO:
            return text.lower() in YES
        raise InputError(f"{where}invalid truth value: {text!r}; write true or false")
    try:
        parsed = kind(text)
    except ValueError:
        raise InputError(f"{where}invalid {kind.__name__} value: {text!r}") from None
    if choices is not None and parsed not in choices:
        raise InputError(f"{where}invalid choice: {text!r}{nearest(text, choices)}; choose {', '.join(choices)}")
    return parsed


def read_recipe(path: str) -> Recipe:
    """Read and check a recipe file; raise `InputError` with file, line and remedy."""
    content, lines = read_yaml(path)
    for key in content:
        if key not in ("shared", "members"):
            raise InputError(
                f"{path}, line {lines[(key,)]}: a recipe has `shared:` and `members:`, no {key}"
                f"{nearest(key, ('shared', 'members'))}"
            )
    shared, rows = content.get("shared") or {}, content.get("members") or {}
    if not isinstance(shared, dict) or not isinstance(rows, dict) or not rows:
        raise InputError(f"{path}: `shared:` with settings and `members:` with a row for each member are expected")
    recipe = Recipe(path, {}, {}, lines)
    recipe.shared.update(_parse_settings(shared, recipe, ("shared",)))
    for name, row in rows.items():
        line = lines[("members", name)]
        if not isinstance(row, dict):
            raise InputError(
                f"{path}, line {line}: member {name} needs settings, such as {{head: bigru, fold_seed: 42}}"
            )
        if not name.replace("-", "").replace("_", "").isalnum():
            raise InputError(f"{path}, line {line}: member {name} names a folder; use letters, digits, - and _")
        if name.casefold() in JOB_NAMES or len(os.fsencode(name)) > LONGEST_MEMBER:
            raise InputError(
                f"{path}, line {line}: member {name[:40]}: a job has a folder of its own of that name, or it is longer "
                f"than {LONGEST_MEMBER} bytes; choose another"
            )
        for key in row:
            if key in JOB_FIELDS:
                where = recipe.where("members", name, key)
                raise InputError(f"{where}{key} is one for the whole job; move it to `shared:`")
        recipe.rows[name] = _parse_settings(row, recipe, ("members", name))
    return recipe


def _parse_settings(settings: Mapping[str, Any], recipe: Recipe, keys: tuple[str, ...]) -> Values:
    """Return typed values; keys without a value or with an empty list leave the default."""
    member = f", member {keys[1]}: " if len(keys) > 1 else ": "
    values = {}
    for key, value in settings.items():
        where = recipe.where(*keys, key)
        check_name(key, where)
        if value is not None and value != []:
            values[key] = parse_value(key, value, where.removesuffix(": ") + member)
    return values


def without_secrets(words: Sequence[str]) -> list[str]:
    """Return a command line's words but for the tokens in it."""
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
