"""Versions of the libraries and of this project's code, which a run's bytes depend on beside its recipe and data."""

import hashlib
import platform
from functools import cache
from importlib.metadata import version
from pathlib import Path

from smm4h import __version__

OWN = "smm4h"  # key of this project's version, in DONE, TRAINED, checkpoints and plan.json
LIBRARIES = ("torch", "transformers", "accelerate", "datasets", "scikit-learn", "numpy")
# what a run's bytes, or a vote's, can depend on; all else shows, starts or publishes
CODE = ("heads.py", "smm4h/metrics.py", *(f"smm4h/{name}" for name in ("config", "data", "models", "training")))


@cache
def own_version() -> str:
    """Return the version of this project with a hash of its code, `0.2.0+1a2b3c4d`.

    The hash tells states of a checkout apart, between which the version does not change.
    """
    root, digest = Path(__file__).parents[2], hashlib.sha256()
    for name in CODE:
        path = root / name
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return f"{__version__}+{digest.hexdigest()[:8]}"


def versions(*more: str) -> dict[str, str]:
    """Return the versions of Python, of the libraries that results depend on, and of this project.

    Args:
        more: names of further libraries.
    """
    libraries = {name: version(name) for name in (*LIBRARIES, *more)}
    return {"python": platform.python_version(), **libraries, OWN: own_version()}


def is_same_code(made_by: str | None) -> bool:
    """Return whether something was made by this code; True where it was made before versions were written down."""
    return made_by is None or made_by == own_version()
