"""Errors are logged without the values that they quote."""

import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from smm4h.utils.tracebacks import PACKAGE, message_of, reason_of, traceback_of

CELL = "I took my pills"


def nested() -> None:
    try:
        {}[CELL]
    except KeyError as error:
        raise ValueError(f"no label for '{CELL}'") from error


NAMES = {"csv": csv, "json": json, "np": np, "pd": pd, "pa": pa, "CELL": CELL, "nested": nested}


def raised_by(code: str, file: Path) -> Exception:
    """Return the error of a line of code that stands in a file of this name."""
    with pytest.raises(Exception) as caught:  # noqa: PT011
        exec(compile(code, str(file), "exec"), dict(NAMES))
    return caught.value


@pytest.mark.parametrize("file", [PACKAGE / "data" / "read.py", Path("elsewhere") / "read.py"], ids=["ours", "others"])
@pytest.mark.parametrize(
    "code",
    [
        "{}[CELL]",
        "int(CELL)",
        """float(f"it's {CELL}")""",
        """float(f"it's '{CELL}")""",
        "[].index(CELL)",
        "np.array([CELL]).astype(float)",
        "pd.to_numeric(pd.Series([CELL]))",
        "pd.Series({'a': 1})[CELL]",
        "pd.to_datetime(CELL)",
        "pa.array([CELL]).cast(pa.int64())",
        "pa.table({'a': [1]}).column(CELL)",
        "json.loads(CELL)",
        "CELL.encode('utf-16').decode('ascii')",
        "compile(CELL, 'x', 'exec')",
        "nested()",
    ],
)
def test_no_value_of_the_data_is_logged(code, file):
    error = raised_by(code, file)
    text = traceback_of(error) + message_of(error)
    assert not any(word in text for word in ("took", "pills"))
    assert type(error).__name__ in text
    assert "read.py" in text


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            OSError("can't load 'I took my pills' of me/encoder, it isn't there"),
            "can't load '...' of me/encoder, it isn't",
        ),
        (KeyError(CELL), "KeyError"),
        (
            ValueError("401 for https://me:hf_AbCdEf123456@hf.co/me/x?token=abcdef123456"),
            "401 for https://hf.co/me/x?...",
        ),
        (ValueError("Bearer abcdef.123456-789 was refused; hf_AbCdEf123456"), "Bearer ... was refused; hf_..."),
        (ValueError("no file 'config.json'\nin `tiny`"), "no file 'config.json' in `tiny`"),
    ],
)
def test_reasons_hold_names_but_no_phrase_and_no_token(error, reason):
    assert reason_of(error).startswith(reason)
    assert not any(secret in reason_of(error) for secret in ("pills", "AbCdEf", "123456"))


@pytest.mark.parametrize(
    ("fail", "message"),
    [
        (lambda: torch.nn.Linear(3, 2)(torch.zeros(1, 4)), "mat1 and mat2 shapes cannot be multiplied (1x4 and 3x2)"),
        (lambda: None.nothing, "AttributeError: 'NoneType' object has no attribute 'nothing'"),
        (lambda: Path("no/such").read_text(), "FileNotFoundError: No such file or directory (no/such)"),
    ],
)
def test_what_is_no_value_is_logged(fail, message):
    with pytest.raises(Exception) as caught:  # noqa: PT011
        fail()
    assert message in message_of(caught.value)
    assert message in traceback_of(caught.value)
