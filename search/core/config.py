"""Everything that determines a study."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from search.core.constraints import Budget
from search.core.objectives import ObjectiveName
from search.core.tracking_uri import default_tracking_uri
from trainables.core.config_base import FrozenConfig

SamplerName = Literal["ehvi", "tpe", "nsga2", "random"]


class StudyConfig(FrozenConfig):
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
    scheduler: Literal["halving", "none"] = "none"  # as of studies from before there was any
    grace_epochs: int = Field(1, ge=1)
    reduction: float = Field(3.0, gt=1)
    warm_start: str | None = None
    stop_when_flat: Annotated[float, Field(gt=0, lt=1)] | None = None
    seed: int = Field(ge=0)
    objectives: tuple[ObjectiveName, ...] = ("miou", "size")
    max_size_bytes: Annotated[int, Field(gt=0)] | None = None
    max_macs: Annotated[int, Field(gt=0)] | None = None
    max_latency_ms: Annotated[float, Field(gt=0)] | None = None
    time_budget_s: float | None = None
    trial_timeout_s: Annotated[float, Field(gt=0)] = 1800.0
    checkpoint_every_s: Annotated[float, Field(gt=0)] = 10.0
    cpus_per_trial: Annotated[float, Field(gt=0)] | None = None
    gpus_per_trial: Annotated[float, Field(ge=0)] | Literal["auto"]
    tracking_uri: str

    @field_validator("objectives")
    @classmethod
    def check_objectives(cls, names: tuple[ObjectiveName, ...]) -> tuple[ObjectiveName, ...]:
        if "miou" not in names or len(names) < 2 or len(set(names)) < len(names):
            raise ValueError("miou and at least one other must be named, each once")
        return names

    @field_validator("stop_when_flat")
    @classmethod
    def check_flat(cls, share: float | None, info: ValidationInfo) -> float | None:
        if share is not None and info.data.get("sampler") != "ehvi":
            raise ValueError(f"it needs --sampler ehvi, not {info.data.get('sampler')}")
        return share

    @property
    def budget(self) -> Budget:
        """The limits that no student may break."""
        return Budget(
            size_bytes=self.max_size_bytes, macs=self.max_macs, latency_ms=self.max_latency_ms
        )

    @property
    def wants_latency(self) -> bool:
        """Whether latencies must be known before students are trained."""
        return "latency" in self.objectives or self.max_latency_ms is not None

    def moved_to(self, storage: Path) -> "StudyConfig":
        """The same study in another storage, and its store there if it was its storage's own."""
        is_own = self.tracking_uri == default_tracking_uri(self.storage)
        uri = default_tracking_uri(storage) if is_own else self.tracking_uri
        return self.replace(storage=storage, tracking_uri=uri)

    @property
    def resume_arguments(self) -> list[str]:
        """What Python is given to go on with the study."""
        return ["-m", "search.run", "--storage", str(self.storage), "--resume", self.name]

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


IMMUTABLE_FIELDS = frozenset(
    {
        "space",
        "epochs",
        "image_size",
        "teacher_outputs",
        "sampler",
        "scheduler",
        "grace_epochs",
        "reduction",
        "warm_start",
        "seed",
        "objectives",
    }
)
"""Fields that a resumed study keeps: changing them would mix trials that cannot be compared."""
