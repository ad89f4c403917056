"""The model card: a JSON file beside an exported model that describes it."""

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from trainables.config import TrialConfig
from trainables.core.command_line import first_problem
from trainables.core.config_base import FrozenConfig
from trainables.core.files import hash_file
from trainables.data.augmentation import MEAN, STD
from trainables.data.configs import LabelSize
from trainables.deploy.latency import Latency

ExportFormat = Literal["packed", "onnx", "onnx-int8"]


class Preprocessing(FrozenConfig):
    """From an image to the model's input `images` (N,3,H,W), float32, with any H and W.

    The longest side is scaled to `longest_side` pixels, bilinearly; `mean` is subtracted from RGB
    in [0,1], which is divided by `std`. The model gives `logits` (N,K,H,W); the class of a pixel is
    that of the greatest logit.
    """

    longest_side: int = Field(ge=1)
    color: Literal["RGB"] = "RGB"
    layout: Literal["NCHW"] = "NCHW"
    mean: tuple[float, float, float] = MEAN
    std: tuple[float, float, float] = STD


class ModelCard(FrozenConfig):
    """The card of an exported model.

    `miou` and `changed_pixels`, of `num_pixels`, were measured with the exported file on the
    validation split; `changed_pixels` get another class than by the search's own model, whose mIoU
    is `searched_miou`. `label_size` is the size of the labels that `miou` and `class_iou` were
    measured on, that of the packed images in cards of older versions; `changed_pixels` are counted
    at the latter. `class_iou` holds the IoU of each class by name, None for a class that no
    label of the split holds, and `never_predicted` the names of the classes that labels hold and no
    pixel is predicted as; both are None in cards of older versions. `latency` is that of an ONNX
    file; `packed` has none. `float_operations` are the layers and the other operations that a file
    of the format `onnx-int8` computes on floats.
    """

    format: ExportFormat
    file: str
    sha256: str
    size_bytes: int
    miou: float
    label_size: LabelSize = "packed"
    searched_miou: float
    class_iou: dict[str, float | None] | None = None
    never_predicted: tuple[str, ...] | None = None
    changed_pixels: int
    num_pixels: int
    latency: tuple[Latency, ...]
    float_operations: tuple[str, ...] = ()
    data: str
    data_digest: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    study: str
    study_id: str
    trial: str
    config: TrialConfig
    versions: dict[str, str]


def card_path(model: Path) -> Path:
    """The path of the card of a model."""
    return model.with_name(f"{model.name}.json")


def read_model_card(model: Path) -> ModelCard:
    """The card beside a model.

    Raises:
        ValueError: there is none, or it is damaged, or the model is not the one it describes.
    """
    path = card_path(model)
    if not path.is_file():
        raise ValueError(
            f"a model must have its card beside it, but there is no {path}: "
            "python -m search.export writes both"
        )
    try:
        card = ModelCard.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ValueError(f"{path} must be a model card, but {first_problem(error)}") from error
    if card.sha256 != hash_file(model):
        raise ValueError(f"a model must be the one of its card, but {model} has changed since")
    return card
