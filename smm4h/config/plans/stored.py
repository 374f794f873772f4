"""The plan that an output folder holds, and its difference from the plan of this command."""

import json
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
    for part, remedy in (("task", "task"), ("data", "data"), ("recipe", "recipe or flags")):
        if difference := _first_difference(stored[part], plan.identity[part], part):
            saving = f"; ensemble.py {plan.output_dir} --save changes how a finished job decides"
            return (
                f"{plan.output_dir} was made with another {part}: {difference}; "
                f"choose another --output_dir, or the {remedy} that it was made with"
                f"{saving if difference.startswith(OF_THE_RULE) else ''}"
            )
    return None


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
