"""What the predictions of a teacher are means of."""

from dataclasses import dataclass
from typing import Literal

from trainables.models.configs import StudentConfig

Flip = Literal["auto", "on", "off"]


@dataclass(frozen=True)
class Averaging:
    """What the predictions of a teacher are means of.

    Attributes:
        num_seeds: networks of a teacher that is trained on the data, which differ in their seeds.
        mirrored: whether each also sees the mirror image.
    """

    num_seeds: int = 1
    mirrored: bool = False


PLAIN = Averaging()


def choose_averaging(num_seeds: int, flip: Flip, is_live: bool) -> Averaging:
    """Mirror images are averaged where `auto` leaves it open and the outputs are kept."""
    return Averaging(num_seeds, mirrored=flip == "on" or (flip == "auto" and not is_live))


def is_trained_here(teacher: str | StudentConfig) -> bool:
    """Whether a teacher is to be trained on the data, unless it turns out to be at hand."""
    return teacher == "auto" or isinstance(teacher, StudentConfig)


def check_seeds(num_seeds: int, is_trained_here: bool) -> None:
    """Raises ValueError where a teacher that comes trained is to have several seeds."""
    if num_seeds > 1 and not is_trained_here:
        raise ValueError(
            "--teacher-seeds must be 1 for a teacher that is not trained on the data, but got "
            f"{num_seeds}"
        )
