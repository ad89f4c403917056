"""Exports one point of a front as a file for the device, and checks that file."""

import hashlib
import logging
import os
from dataclasses import replace
from pathlib import Path

from search.deployment.selection import Choice
from search.storage.layout import artifact_folder, model_folder
from search.storage.study_file import StudyFile, installed_versions
from trainables.config import read_config
from trainables.core.artifacts import ArtifactStore
from trainables.core.errors import ExportFailed
from trainables.core.files import replace_file
from trainables.data.packed import PackedDataset
from trainables.deploy.latency import Latency, measure_latency
from trainables.deploy.model_card import ExportFormat, ModelCard, Preprocessing, card_path
from trainables.deploy.parity import Parity, check_parity
from trainables.deploy.runtime import CUDA, available_providers, module_network, open_model
from trainables.models.model_file import CONFIG_FILE, MODEL_FILE, read_model
from trainables.training.setup import open_data

log = logging.getLogger(__name__)
TOLERANCE = 0.001
"""The most by which the mIoU of an exported file may be below the search's, or differ from it."""
MOST_CHANGED = 0.05
"""The most of all pixels whose class may change where an `onnx-int8` file has more mIoU."""
SUFFIX: dict[ExportFormat, str] = {
    "packed": ".safetensors",
    "onnx": ".onnx",
    "onnx-int8": "-int8.onnx",
}


def validation_data(study: StudyFile, folder: Path) -> PackedDataset:
    """The packed data of a study, packed again if the artifact was deleted.

    Raises:
        ValueError: the data has changed since, or is not there any more.
    """
    store = ArtifactStore(artifact_folder(folder.resolve().parent))
    config = study.config
    try:
        opened = open_data(config.data, config.image_size, store, study.label_size)
    except ValueError as error:  # whose flag is that of a search
        raise ValueError(f"the study's data {str(error).removeprefix('--data ')}") from error
    if opened.digest != study.data_digest:
        raise ValueError(
            f"an export is checked on the study's data, but {study.config.data} has changed: it is "
            f"now {opened.digest}, the study had {study.data_digest}"
        )
    return opened.pack()


class Exporter:
    """Exports one point of a study's front."""

    def __init__(
        self,
        study: StudyFile,
        folder: Path,
        data: PackedDataset,
        choice: Choice,
        form: ExportFormat,
    ) -> None:
        self.study, self.data, self.choice, self.form = study, data, choice, form
        self.source = model_folder(folder, choice.trial_id) / MODEL_FILE
        self.config = read_config(self.source.with_name(CONFIG_FILE))
        self.network = read_model(self.source)

    def export(self, out: Path) -> ModelCard:
        """Writes the file and its model card.

        Raises:
            ExportFailed: the mIoU of the file differs from the search's; the file is deleted.
        """
        path = out / f"{self.study.config.name}-{self.choice.trial_id}{SUFFIX[self.form]}"
        aside = path.with_name(f".unchecked-{path.name}")
        content = self.content()
        try:
            aside.write_bytes(content)
            card = self.check(aside, path, content)
            os.replace(aside, path)
            return card
        finally:
            aside.unlink(missing_ok=True)

    def sized(self) -> Choice:
        """The point with the size of its exported file."""
        return replace(self.choice, size_bytes=len(self.content()))

    def content(self) -> bytes:
        """The file's content."""
        if self.form == "packed":
            return self.source.read_bytes()
        from trainables.deploy.onnx_export import serialize

        about = {"study": self.study.config.name, "trial": self.choice.trial_id}
        classes = {"classes": ",".join(self.data.class_names)}
        return serialize(self.network, self.data.num_classes, self.form, about | classes)

    def check(self, aside: Path, path: Path, content: bytes) -> ModelCard:
        """Runs the file on the validation split and writes its model card.

        Raises:
            ExportFailed: the mIoU of the file differs from the search's. That of `onnx-int8` may be
                greater: rounding on integers changes the classes of a few pixels for the better.
        """
        reference = module_network(self.network)
        try:
            parity = check_parity(open_model(aside), reference, self.data)
        except ValueError as error:
            raise ExportFailed(str(error)) from error
        lost = self.choice.miou - parity.miou
        may_gain = self.form == "onnx-int8"
        if lost > TOLERANCE or (-lost > TOLERANCE and not may_gain):
            within = "less at most" if may_gain else "within"
            raise ExportFailed(
                f"{path.name} must have the search's mIoU {self.choice.miou:.4f} {within} "
                f"{TOLERANCE:g}, but has {parity.miou:.4f}; it was deleted"
            )
        if -lost > TOLERANCE and parity.changed_share > MOST_CHANGED:
            raise ExportFailed(
                f"{path.name} must give the search's classes but for {MOST_CHANGED:.0%} of the "
                f"pixels where its mIoU differs, but {parity.changed_share:.1%} changed, and it "
                f"has {parity.miou:.4f} instead of {self.choice.miou:.4f}; it was deleted"
            )
        card = self.card(path, content, parity, self.latencies(content))
        replace_file(card_path(path), card.model_dump_json(indent=1))
        return card

    def latencies(self, content: bytes) -> tuple[Latency, ...]:
        """Latencies of an ONNX file on the CPU, and on a GPU where ONNX Runtime has one."""
        if self.form == "packed":
            return ()
        height, width = self.data.height, self.data.width
        latencies = [measure_latency(content, height, width)]
        if CUDA in available_providers():
            try:
                latencies.append(measure_latency(content, height, width, CUDA))
            except ValueError as error:
                log.warning("no latency on a GPU: %s", error)
        return tuple(latencies)

    def float_operations(self) -> tuple[str, ...]:
        """What the fast ONNX form computes on floats; other forms are not meant for integers."""
        if self.form != "onnx-int8":
            return ()
        from trainables.deploy.onnx_export import find_float_operations

        return tuple(find_float_operations(self.network))

    def card(
        self, path: Path, content: bytes, parity: Parity, latency: tuple[Latency, ...]
    ) -> ModelCard:
        study, scores, names = self.study, parity.scores, self.data.class_names
        return ModelCard(
            format=self.form,
            file=path.name,
            sha256=hashlib.sha256(content).hexdigest(),
            size_bytes=len(content),
            miou=parity.miou,
            label_size=study.label_size,
            searched_miou=self.choice.miou,
            class_iou=dict(zip(names, scores.class_iou, strict=True)),
            never_predicted=tuple(names[index] for index in scores.never_predicted),
            changed_pixels=parity.changed_pixels,
            num_pixels=parity.num_pixels,
            latency=latency,
            float_operations=self.float_operations(),
            data=Path(study.config.data).name,
            data_digest=study.data_digest,
            classes=names,
            preprocessing=Preprocessing(longest_side=study.config.image_size),
            study=study.config.name,
            study_id=study.id,
            trial=self.choice.trial_id,
            config=self.config,
            versions=installed_versions(),
        )
