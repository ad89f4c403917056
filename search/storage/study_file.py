"""study.json: the configuration of a study, its data, and the versions it ran with."""

import os
import platform
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from filelock import Timeout
from pydantic import JsonValue, field_validator, model_validator

import spaces
from search.core.config import Placement, StudyConfig
from search.storage.layout import STUDY_FILE, lock_path
from trainables.core.config_base import FrozenConfig, digest
from trainables.core.files import hash_file, replace_file
from trainables.core.mirror import exists, is_mirrored, shown
from trainables.core.mirror_lock import STALE_S, SharedLock, shared_lock
from trainables.core.terminal import print_error
from trainables.data.configs import LabelSize

PACKAGES = ("paretoseg", "torch", "torchvision", "ray", "optuna", "mlflow")
BEFORE_ITS_FIELD: dict[str, object] = {
    "scheduler": "none",
    "grace_epochs": 1,
    "class_weights": "none",
    "teacher_flip": "off",
    "least_miou": 0.0,
}
"""Values of fields that an older study.json lacks, where they differ from the default."""
LEASE_S = 120.0
"""Seconds after which the lock of a lost node is free."""
PROPOSING = ("optuna", "scikit-learn", "moocore", "numpy")


class StudyFile(FrozenConfig):
    """The content of study.json."""

    id: str
    """Distinguishes studies of the same name, as after a folder was deleted."""
    config: StudyConfig
    versions: dict[str, str]
    data_digest: str
    unlabelled_digest: str | None = None
    """Identifies the unlabelled images; None: there are none."""
    teacher_digest: str | None = None
    """SHA-256 of the teacher's file, where the teacher is a file."""
    class_names: tuple[str, ...]
    label_size: LabelSize = "packed"
    """Size of the labels that mIoU is measured on, that of the pack in files of older versions."""
    teacher_epochs: int | None = None
    """Epochs of a teacher that is trained on the data; None: there is none."""
    latency_conditions: dict[str, JsonValue] | None = None
    """Conditions under which all latencies in the journal were measured; None: unknown or mixed."""

    @model_validator(mode="before")
    @classmethod
    def fill_in_teacher(cls, file: object) -> object:
        """A file of an older version, whose teachers had one length for all data of a kind."""
        if (
            not isinstance(file, dict)
            or "teacher_epochs" in file
            or not isinstance(config := file.get("config"), dict)
        ):
            return file
        on_photographs = 120 if config.get("gpus_per_trial") else 60
        return {**file, "teacher_epochs": 24 if config.get("data") == "shapes" else on_photographs}

    @field_validator("config", mode="before")
    @classmethod
    def fill_in(cls, config: object) -> object:
        """A configuration of an older version, with what its fields were before they existed."""
        if not isinstance(config, dict):
            return config
        on_photographs = "strong" if config.get("gpus_per_trial") else "flip"
        name = "flip" if config.get("data") == "shapes" else on_photographs
        return {**BEFORE_ITS_FIELD, "augmentation": name, **config}


def installed_versions() -> dict[str, str]:
    """Versions of Python and of the packages that determine results."""
    return {"python": platform.python_version(), **{name: version_of(name) for name in PACKAGES}}


def version_of(package: str) -> str:
    """The version of a package; a checkout of this project may run without being installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def proposed_by(config: StudyConfig) -> dict[str, str]:
    """What determines proposals besides the trials: packages, spaces and limits."""
    files = sorted(Path(spaces.__file__).parent.glob("*.py"))
    return {
        **{name: version_of(name) for name in ("paretoseg", *PROPOSING)},
        "spaces": digest([hash_file(file) for file in files]),
        "limits": str(config.budget),
    }


def write_study_file(file: StudyFile) -> None:
    """Writes study.json into the study's folder."""
    replace_file(file.config.folder / STUDY_FILE, file.model_dump_json(indent=1))


def lock_study(config: Placement, wait_s: float = 0.0) -> SharedLock:
    """Locks a study or a comparison against other drivers until this process ends, however it does.

    Raises:
        ValueError: another driver runs the study, and does so after `wait_s` seconds.
    """
    lock_file = lock_path(config.storage, config.name)
    lock = shared_lock(lock_file, lambda: end_without_lock(config.name))
    try:
        lock.acquire(timeout=wait_s)
    except Timeout:
        lost = f", or its machine was lost within {STALE_S:g} s" if is_mirrored(lock_file) else ""
        raise ValueError(
            f"a study must not run twice at once, but {config.name} is running{lost}"
        ) from None
    return lock


def end_without_lock(name: str) -> None:
    """Ends this process at once, as two drivers would damage the journal."""
    try:
        print_error(f"error: {name} goes on elsewhere: this machine did not renew its lock in time")
    finally:
        os._exit(2)


def check_not_running(config: Placement) -> None:
    """Raises ValueError where another driver runs the study; creates no lock file."""
    if exists(lock_path(config.storage, config.name)):
        lock_study(config).release()


def wait_for_driver(config: Placement, say: Callable[[str], None]) -> None:
    """Waits as long as a network file system may keep the lock of a driver whose node is lost."""
    try:
        check_not_running(config)
    except ValueError:
        say(f"waiting for the lock of an earlier driver, {LEASE_S:g} s at most")
        with suppress(ValueError):  # which is said once the study is prepared
            lock_study(config, LEASE_S).release()


def read_study_file(folder: Path, flag: str = "--resume") -> StudyFile:
    """The study in a folder, which `flag` of the command line named and which may have moved.

    Raises:
        ValueError: there is none.
    """
    path = folder / STUDY_FILE
    if not path.is_file():
        raise ValueError(f"{flag} must name an existing study, but there is no {shown(path)}")
    file = StudyFile.read(path)
    return file.replace(config=file.config.moved_to(folder.resolve().parent))
