"""The results of a study, in Python: its tables, its plot, and the models of its front."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from search.core.objectives import named_objectives
from search.storage.layout import FRONT_TABLE, TRIALS_TABLE, model_folder
from search.storage.study_file import StudyFile, read_study_file
from trainables.data.image_file import read_image
from trainables.deploy.runtime import Network, open_model
from trainables.deploy.segmenter import segment
from trainables.models.model_file import MODEL_FILE

if TYPE_CHECKING:
    import pandas as pd


class FrontModel:
    """A model of a front.

    Attributes:
        file: the model file, whose length is the size in the tables.
        class_names: of the data, in the order of the indices that it predicts.
    """

    def __init__(self, file: Path, longest_side: int, class_names: Sequence[str]) -> None:
        self.file, self.longest_side = file, longest_side
        self.class_names = tuple(class_names)
        self._network: Network = open_model(file)

    def predict(self, image: Image.Image | Path | str) -> NDArray[np.uint8]:
        """The class index (H,W) of each pixel of an image or an image file, at its own size.

        Raises:
            ValueError: the file is no image that can be read, or is absent.
        """
        picture = image if isinstance(image, Image.Image) else read_image(Path(image))
        return np.asarray(segment(self._network, self.longest_side, picture.convert("RGB")))


class StudyResults:
    """What a study has left in its folder; `open_study` opens it.

    Attributes:
        folder: the folder of the study.
        file: the content of its study.json: configuration, versions, names of classes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file: StudyFile = read_study_file(folder, "the study")

    def front(self) -> "pd.DataFrame":
        """A row for each trial of the front, smallest first, with the columns of `trials`."""
        return self._table(FRONT_TABLE)

    def trials(self) -> "pd.DataFrame":
        """A row for each trial: state, reason, settings, mIoU, IoU by class, bytes, seconds."""
        return self._table(TRIALS_TABLE)

    def plot(self) -> Any:
        """mIoU against model size of all finished trials, as a `matplotlib.figure.Figure`."""
        from search.analysis.pareto_plot import draw_picture
        from search.analysis.plot_layout import count_trials, plot_points
        from search.storage.journal import read_journal
        from search.storage.trials import read_asked_records

        config = self.file.config
        records = read_asked_records(read_journal(self.folder, config.name))
        points = plot_points(records, named_objectives(config.objectives))
        subtitle = count_trials(records, points)
        return draw_picture(points, config.name, subtitle, config.baselines)

    def model(self, trial: str) -> FrontModel:
        """The model of a trial of the front, by its id such as "0007".

        Raises:
            ValueError: the trial is not on the front, or its file is damaged.
        """
        known = list(self.front()["trial_id"])
        if trial not in known:
            raise ValueError(
                f"a model must be of a trial on the front, which are {', '.join(known)}, but got "
                f"{trial!r}"
            )
        file = model_folder(self.folder, trial) / MODEL_FILE
        return FrontModel(file, self.file.config.image_size, self.file.class_names)

    def _table(self, name: str) -> "pd.DataFrame":
        import pandas as pd

        path = self.folder / name
        if not path.is_file():
            raise ValueError(f"the study must have been reported, but there is no {path}")
        return pd.read_parquet(path)

    def __repr__(self) -> str:
        return f"StudyResults({str(self.folder)!r})"
