"""A study in Python: tables, plot and models."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from search import open_study
from search.results import StudyResults
from trainables.data.shapes import draw_sample

STORED = Path(__file__).parent / "study/stored_study/stored"


@pytest.fixture(scope="module")
def study() -> StudyResults:
    return open_study(str(STORED))


def test_tables_are_data_frames(study: StudyResults) -> None:
    front, trials = study.front(), study.trials()
    assert len(front) == 2
    assert set(front["trial_id"]) <= set(trials["trial_id"])
    assert front["size_bytes"].is_monotonic_increasing
    assert {"miou", "student.width", "state"} <= set(trials.columns)
    assert repr(study) == f"StudyResults({str(STORED)!r})"


def test_the_plot_is_a_figure(study: StudyResults, tmp_path: Path) -> None:
    figure = study.plot()
    figure.savefig(tmp_path / "front.png")
    texts = {text.get_text() for text in figure.axes[0].texts}
    assert set(study.front()["trial_id"]) <= texts


def test_a_model_predicts_at_the_size_of_the_image(study: StudyResults, tmp_path: Path) -> None:
    trial = study.front()["trial_id"][0]
    model = study.model(trial)
    assert model.file.stat().st_size == study.front()["size_bytes"][0]
    image = Image.fromarray(np.ascontiguousarray(draw_sample(48, 0, 0)[0][:36]))
    image.save(tmp_path / "image.png")
    classes = model.predict(image)
    assert classes.shape == (36, 48)
    assert classes.dtype == np.uint8
    assert classes.max() < len(model.class_names)
    assert np.array_equal(classes, model.predict(tmp_path / "image.png"))
    assert np.array_equal(classes, model.predict(str(tmp_path / "image.png")))


def test_what_is_not_there_is_said(study: StudyResults, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the study must name an existing study, but there is no"):
        open_study(tmp_path)
    with pytest.raises(ValueError, match=r"on the front, which are 00.*, but got '0099'"):
        study.model("0099")
    model = study.model(study.front()["trial_id"][0])
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ValueError, match=r"text\.png"):
        model.predict(tmp_path / "text.png")
