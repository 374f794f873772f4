"""Durations: as a user writes them, and as a message says them."""

import re

from smm4h.utils.errors import InputError

UNITS = {"h": 3600, "m": 60, "s": 1}
WITH_UNITS = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")
CLOCK = re.compile(r"(\d+):([0-5]\d):([0-5]\d)")
EXPECTED = "write hours, minutes or seconds with their unit, such as 90m, 2h or 1h30m, or a clock's 1:30:00"


def seconds_of(text: str) -> float:
    """Return the seconds of `90m`, `2h`, `1h30m`, `1.5h` or `1:30:00`; raise `InputError` for anything else."""
    bare = text.strip().lower().replace(" ", "")
    if clock := CLOCK.fullmatch(bare):
        parts: tuple = clock.groups()
    elif bare and (units := WITH_UNITS.fullmatch(bare)):
        parts = units.groups()
    else:
        raise InputError(f"{text} is no duration; {EXPECTED}")
    seconds = sum(float(part or 0) * unit for part, unit in zip(parts, UNITS.values(), strict=True))
    if not seconds:
        raise InputError(f"{text} is no time at all; {EXPECTED}")
    return seconds


def canonical_duration(text: str) -> str:
    """Return the one spelling of a duration, such as `1h30m`; equal durations have equal ones."""
    rest, spelled = round(seconds_of(text)), ""
    for unit, size in UNITS.items():
        count, rest = divmod(rest, size)
        spelled += f"{count}{unit}" if count else ""
    return spelled or "1s"


def duration(seconds: float) -> str:
    """Return a duration in hours and minutes, or in minutes and seconds."""
    hours, minutes, seconds = int(seconds // 3600), int(seconds // 60 % 60), int(seconds % 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s"


def about(seconds: float) -> str:
    """Return a forecast in words, no more exact than it can be: seconds, minutes, or hours and tens of minutes."""
    if seconds < 100:
        return f"{max(5, 5 * round(seconds / 5))} s"
    if seconds < 100 * 60:
        return f"{round(seconds / 60)} min"
    hours, minutes = divmod(10 * round(seconds / 600), 60)
    return f"{hours} h" if hours >= 10 or not minutes else f"{hours} h {minutes} min"
