"""Studies that tests open; apart from other factories, since they import Ray and MLflow."""

from search.core.config import StudyConfig
from search.study.preparation import open_study, prepare_study
from search.study.study import Study


def open_new_study(config: StudyConfig) -> Study:
    """A study that begins."""
    study = prepare_study(config, resumed=False)
    open_study(study)
    return study


def open_stored_study(config: StudyConfig) -> Study:
    """A study that goes on."""
    study = prepare_study(config, resumed=True)
    open_study(study)
    return study
