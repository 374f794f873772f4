"""Ensembles of BERT-like encoders for rare health events in tweets (SMM4H 2020)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from smm4h.inference.loading import LoadedEnsemble

__version__ = "0.2.0"


def load(name: str | os.PathLike[str], *, device: str | None = None) -> LoadedEnsemble:
    """Return a finished job's ensemble, a published one, or a student, ready to predict.

    Args:
        name: a job's or a student's output folder, or the folder or Hub name of a published ensemble, of a student, or
            of another sequence classifier.
        device: such as `cpu` or `cuda:0`; None: the GPU, where there is one.

    Raises `smm4h.utils.errors.InputError` for a name that is none of these, and for a job whose models were not kept.
    """
    from smm4h.inference.loading import LoadedEnsemble  # torch, which `import smm4h` does not cost

    return LoadedEnsemble(os.fspath(name), device)
