"""The plan that an output folder holds, and its difference from the plan of this command."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smm4h.config.arguments import DEFAULTS
from smm4h.config.plans.plan import Plan
from smm4h.utils.durable import read_checked_json

OF_THE_RULE = tuple(f"recipe shared {key} " for key in ("vote", "decision", "ties", "predict_with"))  # of differences


def is_stored(plan: Plan) -> bool:
    """Return whether the output folder holds the plan of this job."""
    return stored_plan(plan) is not None and difference_from_stored(plan) is None


def stored_plan(plan: Plan) -> dict[str, Any] | None:
    """Return the content of the output folder's plan.json; None where it is missing or damaged."""
    stored = read_checked_json(plan.plan_file)
    return stored if stored is not None and {"task", "data", "recipe", "versions"} <= stored.keys() else None


def difference_from_stored(plan: Plan) -> str | None:
    """Return the first difference from the output folder's plan, as a message with its remedy.

    None without a difference, and where there is no whole plan.
    """
    stored = stored_plan(plan)
    if stored is None:
        return None
    names = _names_of_texts(stored, plan)
    before, now = _by_key(stored, plan.identity, names), _by_key(plan.identity, stored, names)
    changed = _changed_texts(stored, plan, names)
    for part, remedy in (("task", "task"), ("data", "data"), ("recipe", "recipe or flags")):
        if difference := _first_difference(before[part], now[part], part):
            if changed and part == "recipe":
                difference += f", and the content of {changed} has changed"
                remedy = "recipe, flags and file"
            saving = f"; ensemble.py {plan.output_dir} --save changes how a finished job decides"
            return (
                f"{plan.output_dir} was made with another {part}: {difference}; "
                f"choose another --output_dir, or the {remedy} that it was made with"
                f"{saving if difference.startswith(OF_THE_RULE) else ''}"
            )
    if changed is None:
        return None
    return (
        f"{plan.output_dir} was made with other texts: the content of {changed}, which encoders are adapted to, has "
        "changed since; bring the old file back, or choose another --output_dir"
    )


def _texts_of(content: Mapping[str, Any]) -> dict[str, str | None]:
    """Return by member that is adapted the hash of the texts of its file; None: it has no file.

    Of a member from elsewhere, `adapt` has no effect, and is whatever the recipe says for all.
    """
    members = content["recipe"]["members"].items()
    adapted = {name: own["adapt"] for name, own in members if "adapt" in own and "predictions" not in own}
    return {name: json.loads(settings).get("unlabelled") for name, settings in adapted.items()}


def _names_of_texts(stored: Mapping[str, Any], plan: Plan) -> dict[str | None, str]:
    """Return by hash of content the names of files that encoders are adapted to, as they were called at first."""
    names, texts = {content: Path(file).name for content, file in plan.text_files.items()}, _texts_of(stored)
    for adaptation in stored.get("adaptations", {}).values():
        if "unlabelled" in adaptation:
            members = [name for name in adaptation["members"] if name in texts]
            names |= {texts[name]: adaptation["unlabelled"]["file"] for name in members}
    return names


def _changed_texts(stored: Mapping[str, Any], plan: Plan, names: Mapping[str | None, str]) -> str | None:
    """Return a file of texts, as it is named now, that has another content than when the folder was made; or None.

    Args:
        names: see `_names_of_texts`.
    """
    before = _texts_of(stored)
    for member, content in _texts_of(plan.identity).items():
        own = before.get(member, content)
        if own != content and names.get(own, own) == names.get(content, content):
            return plan.text_files.get(content, names.get(content, content))
    return None


def _by_key(content: Mapping[str, Any], other: Mapping[str, Any], names: Mapping[str | None, str]) -> dict[str, Any]:
    """Return the content of a plan with each `adapt` as a mapping, in which a file's name is in the hash's place.

    An `adapt` that the other plan's member lacks stays as it is.
    """
    members = dict(content["recipe"]["members"])
    for name in _texts_of(content).keys() & _texts_of(other).keys():
        own = json.loads(members[name]["adapt"])
        own["unlabelled"] = names.get(own.get("unlabelled"), own.get("unlabelled"))
        members[name] = {**members[name], "adapt": own}
    return {**content, "recipe": {**content["recipe"], "members": members}}


def _first_difference(stored: Any, current: Any, path: str) -> str | None:
    """Return the first difference between a folder's settings and the current ones, in words; None if equal.

    Args:
        path: the keys down to these values, separated by spaces.
    """
    if isinstance(stored, dict) and isinstance(current, dict):
        for key in [*stored, *(k for k in current if k not in stored)]:
            if difference := _first_difference(stored.get(key), current.get(key), f"{path} {key}"):
                return difference
        return None
    if json.loads(json.dumps(current)) == stored:
        return None
    default = DEFAULTS.get(path.rsplit(" ", 1)[-1])
    return f"{path} was {_shown(stored, default)} and is {_shown(current, default)} now"


def _shown(value: Any, default: Any) -> str:
    """Return a value for a message; hashes are cut, and large mappings left out."""
    if value is None:
        return "not there" if default is None else str(default)
    if isinstance(value, dict):
        return "another one" if len(value) > 3 else json.dumps(value)
    return f"{value[:12]}..." if isinstance(value, str) and len(value) == 64 else str(value)
