"""Durations as users write them, and as messages say them."""

import pytest

from smm4h.config.plans.durations import about, canonical_duration, seconds_of
from smm4h.utils.errors import InputError


@pytest.mark.parametrize(
    ("text", "seconds", "spelled"),
    [
        ("90m", 5400, "1h30m"),
        ("2h", 7200, "2h"),
        ("1:30:00", 5400, "1h30m"),
        ("1h30m", 5400, "1h30m"),
        ("1.5h", 5400, "1h30m"),
        ("2 H", 7200, "2h"),
        ("45s", 45, "45s"),
        ("0:00:30", 30, "30s"),
    ],
)
def test_equal_durations_have_one_spelling(text, seconds, spelled):
    assert seconds_of(text) == seconds
    assert canonical_duration(text) == spelled
    assert seconds_of(spelled) == seconds


@pytest.mark.parametrize("text", ["120", "1:30", "2d", "h", "", "two hours", "-2h", "30m2h", "0h", "1:60:00"])
def test_anything_else_is_refused_with_examples(text):
    with pytest.raises(InputError, match="90m, 2h or 1h30m"):
        canonical_duration(text)


def test_a_forecast_is_said_no_more_exactly_than_it_is_known():
    assert [about(seconds) for seconds in (1, 42, 130, 4_000, 7_150, 100_000)] == [
        *("5 s", "40 s", "2 min", "67 min", "2 h", "27 h"),
    ]
