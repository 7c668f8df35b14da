"""Dates and times as people and programs write them, in seconds since 1970, UTC."""

from __future__ import annotations

import datetime
import re

ISO = re.compile(r"\d{4}-\d\d?(-\d\d?)?([T ]\d\d?:\d\d(:\d\d(\.\d+)?)?)? ?(Z|UTC|[+-]\d\d:?\d\d)?")
EPOCH = datetime.datetime(1970, 1, 1)


def parse_time(text: str, time_format: str) -> float | None:
    """Seconds since 1970 of a date, perhaps with the time of the day; None if it is not written so.

    A time without a zone is taken as it stands.
    """
    if time_format:
        date, _, clock = text.partition(" ")
        try:
            day = datetime.datetime.strptime(date, time_format)
        except ValueError:
            return None
        text = f"{day:%Y-%m-%d} {_of_24_hours(clock)}".strip() if day.year > 999 else ""
    if not ISO.fullmatch(text):
        return None
    try:
        return since_epoch(datetime.datetime.fromisoformat(_fixed_width(text)))
    except ValueError:
        return None


def _of_24_hours(clock: str) -> str:
    """The time of a day as 13:30 where it is written as 1:30 PM."""
    parts = re.fullmatch(r"(\d\d?)(:\d\d(?::\d\d)?) ?([AaPp])\.?[Mm]\.?", clock)
    if parts is None:
        return clock
    hour = int(parts[1]) % 12 + (12 if parts[3] in "Pp" else 0)
    return f"{hour:02d}{parts[2]}"


def _fixed_width(text: str) -> str:
    """An ISO time as Python's parser takes it: two digits for each part, six for the fraction, no word for the zone."""
    text = re.sub(r"^(\d{4}-\d\d?)$", r"\1-01", text)
    text = re.sub(r" ?(Z|UTC)$", "+00:00", text)
    text = re.sub(r"(?<=[-T :])(\d)(?=$|[-T :+.])", r"0\1", text)
    fraction = re.search(r"\.(\d+)", text)
    if fraction:
        text = text.replace(fraction[0], "." + fraction[1][:6].ljust(6, "0"), 1)
    return text


def since_epoch(time: datetime.datetime) -> float:
    """Seconds since 1970, UTC; a time without a zone is taken as it stands."""
    if time.tzinfo is not None:
        time = time.astimezone(datetime.UTC).replace(tzinfo=None)
    return (time - EPOCH).total_seconds()
