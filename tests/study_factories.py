"""Studies that tests open; apart from other factories, since they import Ray and MLflow."""

import functools
import tempfile
from pathlib import Path

from search.core.config import StudyConfig
from search.core.tracking_uri import default_tracking_uri
from search.study.preparation import open_study, prepare_study
from search.study.study import Study
from search.tracking.mlflow import make_store


@functools.cache
def new_database() -> bytes:
    """MLflow's database without a run; making one takes seconds, so that it is made once."""
    with tempfile.TemporaryDirectory() as folder:
        make_store(default_tracking_uri(Path(folder)))
        return Path(folder, "mlflow.db").read_bytes()


def bring_store(storage: Path) -> None:
    """Puts a store of MLflow where a study in this folder has it, unless there is one."""
    database = storage / "mlflow.db"
    if not database.exists():
        storage.mkdir(parents=True, exist_ok=True)
        database.write_bytes(new_database())


def prepare_new_study(config: StudyConfig) -> Study:
    """A study that begins, of which nothing is on disk but its store of MLflow."""
    bring_store(config.storage)
    return prepare_study(config, resumed=False)


def open_new_study(config: StudyConfig) -> Study:
    """A study that begins."""
    study = prepare_new_study(config)
    open_study(study)
    return study


def open_stored_study(config: StudyConfig) -> Study:
    """A study that goes on."""
    study = prepare_study(config, resumed=True)
    open_study(study)
    return study
