"""Published models that a front is compared with: their names, sizes and mIoU, from a CSV file."""

import csv
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from trainables.core.config_base import FrozenConfig

COLUMNS = ["name", "bytes", "miou"]
SIZE = re.compile(r"[1-9][0-9]{0,11}")
"""Less than a terabyte."""
PERCENT = re.compile(r"[0-9]{1,3}(\.[0-9]*)?")


class Baseline(FrozenConfig):
    """A model that somebody else has measured; `miou` is in [0,1]."""

    name: str = Field(min_length=1)
    size_bytes: int = Field(gt=0)
    miou: float = Field(ge=0, le=1)

    @property
    def label(self) -> str:
        """Its name in plots."""
        return self.name

    @property
    def x(self) -> float:
        """Size in KB."""
        return self.size_bytes / 1000

    @property
    def y(self) -> float:
        """Mean IoU in percent."""
        return 100 * self.miou


def read_line(cells: Sequence[str]) -> Baseline | None:
    """The model of a line; None where it is none."""
    if len(cells) != len(COLUMNS):
        return None
    name, size, miou = cells
    is_number = SIZE.fullmatch(size) and PERCENT.fullmatch(miou)
    has_control = any(unicodedata.category(each) in ("Cc", "Cs") for each in name)
    if not (is_number and name and not has_control and 1 <= float(miou) <= 100):
        return None
    return Baseline(name=name, size_bytes=int(size), miou=float(miou) / 100)


def read_baselines(text: str) -> tuple[Baseline, ...]:
    """The models of the CSV file with the path `text`, whose first line is name,bytes,miou.

    mIoU is in percent there, as papers give it.

    Raises:
        ValueError: the file breaks this format; the message names the line.
    """
    path = Path(text).expanduser()
    try:
        lines = list(csv.reader(path.read_text(encoding="utf-8-sig").splitlines()))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"must be a CSV file that can be read, but {path} is not") from error
    if not lines or [cell.strip() for cell in lines[0]] != COLUMNS:
        raise ValueError(f"the first line must be {','.join(COLUMNS)}, but that of {path} is not")
    baselines = []
    for number, cells in enumerate(lines[1:], 2):
        if not any(cell.strip() for cell in cells):
            continue
        if (baseline := read_line([cell.strip() for cell in cells])) is None:
            raise ValueError(
                "a line must be a name without control characters, a number of bytes in digits, "
                "and a mIoU from 1 to 100 in percent, "
                f"but line {number} of {path} is {','.join(cells)!r}"
            )
        baselines.append(baseline)
    if not baselines:
        raise ValueError(f"at least one model must be listed, but {path} lists none")
    return tuple(baselines)
