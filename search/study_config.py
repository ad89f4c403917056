"""Everything that determines a study."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from search.sampler import SamplerName
from trainables.frozen import Frozen


class StudyConfig(Frozen):
    """A study as study.json keeps it; the default of every flag is already filled in."""

    space: str
    data: str
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    storage: Path
    samples: int = Field(ge=1)
    epochs: int = Field(ge=1)
    image_size: int = Field(ge=16)
    teacher: str
    teacher_outputs: Literal["auto", "live", "views", "maps"] = "auto"
    sampler: SamplerName
    seed: int = Field(ge=0)
    max_size_bytes: int | None = None
    time_budget_s: float | None = None
    cpus_per_trial: Annotated[float, Field(gt=0)] | None = None
    gpus_per_trial: Annotated[float, Field(ge=0)] | Literal["auto"]
    tracking_uri: str

    @property
    def folder(self) -> Path:
        """Where the study leaves everything."""
        return self.storage / self.name

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """What trials run on."""
        return "cuda" if self.gpus_per_trial else "cpu"

    @property
    def max_gpus_per_trial(self) -> float:
        """What a trial gets where nobody knows yet how little it needs."""
        return 1.0 if self.gpus_per_trial == "auto" else self.gpus_per_trial


FIXED = frozenset(
    {"space", "data", "epochs", "image_size", "teacher", "teacher_outputs", "sampler", "seed"}
)
"""Fields that a resumed study keeps: changing them would mix trials that cannot be compared."""
