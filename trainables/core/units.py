"""Sizes, durations and other quantities as people write them."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

SIZES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20}
COUNTS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}
SECONDS = {"": 1, "ms": 1e-3, "s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_size(text: str) -> int:
    """Bytes of "300KB" or "1.5MiB".

    Raises:
        ValueError: it is no positive size.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip())
    if not match or match[2].upper() not in SIZES or float(match[1]) * SIZES[match[2].upper()] < 1:
        raise ValueError(f"a size must be a positive number with B, KB, MB or GB, but got {text!r}")
    return int(float(match[1]) * SIZES[match[2].upper()])


def parse_duration(text: str) -> float:
    """Seconds of "30m" or "1.5h".

    Raises:
        ValueError: it is no positive duration.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text.strip())
    if not match or match[2] not in SECONDS or float(match[1]) <= 0:
        raise ValueError(
            f"a time must be a positive number with ms, s, m, h or d, but got {text!r}"
        )
    return float(match[1]) * SECONDS[match[2]]


def parse_count(text: str) -> int:
    """The number that "500M" stands for.

    Raises:
        ValueError: it is no positive number.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?)", text.strip())
    if not match or float(match[1]) * COUNTS[match[2]] < 1:
        raise ValueError(f"a count must be a positive number with K, M or G, but got {text!r}")
    return int(float(match[1]) * COUNTS[match[2]])


def parse_latency(text: str) -> float:
    """Milliseconds of "20ms", whose unit must be given.

    Raises:
        ValueError: it is no positive duration.
    """
    if text[-1:].isdigit():
        raise ValueError(f"must have a unit, as 20ms, but got {text}")
    return 1000 * parse_duration(text)


def parse_list(text: str) -> tuple[str, ...]:
    """The items of "miou,size"."""
    return tuple(text.split(","))


def parse_shares(text: str) -> tuple[float, ...]:
    """The numbers of "1,0.5".

    Raises:
        ValueError: one is no number.
    """
    try:
        return tuple(float(item) for item in text.split(","))
    except ValueError:
        raise ValueError(f"must be numbers with commas between them, but got {text!r}") from None


def write_shares(shares: Sequence[float]) -> str:
    """The text that `parse_shares` reads."""
    return ",".join(f"{share:g}" for share in shares)


def write_duration(seconds: float) -> str:
    """The text of whole days, hours or minutes, else of seconds, that `parse_duration` reads."""
    unit = next((unit for unit in "dhm" if seconds % SECONDS[unit] == 0), "s")
    return f"{seconds / SECONDS[unit]:g}{unit}"


def human_size(num_bytes: int) -> str:
    """A size to three digits, such as 61.9 KB or 1.95 MB, where 1 KB is 1000 bytes."""
    if num_bytes < 1000:
        return f"{num_bytes} B"
    size, units = num_bytes / 1000, iter(("KB", "MB", "GB"))
    unit = next(units)
    while size >= 999.5 and unit != "GB":
        size, unit = size / 1000, next(units)
    decimals = 2 if size < 9.995 else 1 if size < 99.95 else 0
    return f"{size:.{decimals}f} {unit}"


def human_cost(cost: float | None) -> str:
    """An amount of any currency to two decimals, or to two digits below 0.1; "" if not known."""
    if cost is None:
        return ""
    return f"{cost:.2f}" if cost >= 0.1 or not cost else f"{cost:.2g}"


@dataclass(frozen=True)
class Unit:
    """How a quantity is written on the command line.

    The help names it `metavar`; `parse` reads its text and `write` writes that text. The names of
    fields that hold such a quantity end in `suffix`, which their flags leave out.
    """

    metavar: str
    parse: Callable[[str], Any] = str
    write: Callable[[Any], str] = str
    suffix: str = ""


NAME = Unit("NAME")
INTEGER = Unit("N", int)
NUMBER = Unit("N", float, "{:g}".format)
COUNT = Unit("N", parse_count)
SHARE = Unit("SHARE", float)
PIXELS = Unit("PIXELS", int)
SIZE = Unit("SIZE", parse_size, suffix="_bytes")
TIME = Unit("TIME", parse_duration, write_duration, suffix="_s")
LATENCY = Unit("TIME", parse_latency, suffix="_ms")
LIST = Unit("LIST", parse_list, ",".join)
SHARES = Unit("LIST", parse_shares, write_shares)
