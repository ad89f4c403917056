"""The models of fronts in MLflow: as logged models that it can serve, and in its registry.

The registry has one registered model for each data set, with a version for each model that was on
the front of a study. Its aliases name the best versions of all studies.
"""

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from io import BytesIO
from pathlib import Path
from re import sub
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
from mlflow import MlflowClient, pyfunc
from mlflow.entities import LoggedModel, LoggedModelStatus, Metric
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode
from mlflow.types import ColSpec, DataType, Schema
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS, MLFLOW_RUN_NOTE
from PIL import Image

from search.core.parameter_names import written_params
from search.core.record import LATENCY_MS, Record
from search.storage.layout import EXAMPLES, model_folder
from search.storage.study_file import StudyFile, version_of
from search.tracking.front_model_card import MODEL_CARD, data_name, model_card
from search.tracking.model_aliases import (
    BYTES_TAG,
    LABELS_TAG,
    LIMITS,
    MIOU_TAG,
    as_candidate,
    choose_aliases,
)
from search.tracking.paging import all_pages
from search.tracking.run_content import (
    FRONT_TAG,
    STUDY_ID_TAG,
    STUDY_TAG,
    TRIAL_TAG,
    fit_note,
    latency_tags,
)
from trainables.core.files import replace_file
from trainables.deploy import mlflow_loader
from trainables.deploy.mlflow_loader import IMAGE, LONGEST_SIDE, MASK
from trainables.models.model_file import MODEL_FILE
from trainables.training.examples import read_examples

os.environ["MLFLOW_UV_AUTO_DETECT"] = "false"  # else it copies the uv.lock of the working folder

MODEL_TYPE = "semantic segmentation"
SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec(DataType.binary, IMAGE)]),
    outputs=Schema([ColSpec(DataType.binary, MASK)]),
)
PACKAGES = ("numpy", "pandas", "pillow", "pyarrow", "pydantic", "safetensors", "torch")
"""Packages that a model needs, besides this project."""
MAX_DESCRIPTION = 5000
"""Characters of the description of a version that MLflow keeps."""
LOGGED = ("miou", "pixel_accuracy", "size_bytes", "compressed_bytes", "macs", "ram_bytes")
"""Metrics by which models can be found."""


def registry_name(experiment: str) -> str:
    """The name of the registered model of a data set, of characters that stand in an address."""
    return sub(r"[^\w.-]+", "-", experiment)


def model_name(study: str, trial_id: str) -> str:
    """The name of a logged model, of characters that MLflow allows."""
    return sub(r"[^\w-]", "_", f"{study}-{trial_id}")


class FrontModels:
    """The models of a study's front, as MLflow keeps them.

    All is found again by tags, so that a resumed study writes each model once.

    Args:
        runs: the ids of the runs of its trials.
    """

    def __init__(
        self,
        client: MlflowClient,
        experiment_id: str,
        registry: str,
        file: StudyFile,
        runs: Mapping[str, str],
    ) -> None:
        self.client, self.experiment_id, self.registry = client, experiment_id, registry
        self.file, self.runs = file, runs

    @cached_property
    def example(self) -> bytes | None:
        """The input example of all models."""
        return example_image(self.file.config.folder)

    def keep(self, front: Sequence[Record]) -> None:
        """Logs and registers those that are not yet, says which are on the front, moves aliases.

        A trial whose model file is missing is left out.
        """
        logged = self._logged()
        for member in front:
            folder = model_folder(self.file.config.folder, member.trial_id)
            if member.trial_id not in logged and (folder / MODEL_FILE).is_file():
                logged[member.trial_id] = self._log(member, folder)
        if not logged:
            return
        self._make_registry()
        versions = self._versions()
        known = {version.source: version for version in versions}
        members = {member.trial_id: member for member in front}
        for trial_id, model in logged.items():
            is_member = str(trial_id in members).lower()
            if model.tags.get(FRONT_TAG) != is_member:
                self.client.set_logged_model_tags(model.model_id, {FRONT_TAG: is_member})
            version, links = known.get(model.artifact_location), links_of(model)
            if version is None:
                if links or trial_id not in members:  # a user has deleted the version
                    continue
                version = self._register(members[trial_id], model)
                versions.append(version)
            elif version.tags.get(FRONT_TAG) != is_member:
                number = str(version.version)
                self.client.set_model_version_tag(self.registry, number, FRONT_TAG, is_member)
            link = {"name": self.registry, "version": int(version.version)}
            if link not in links:
                tags = {MLFLOW_MODEL_VERSIONS: json.dumps([*links, link])}
                self.client.set_logged_model_tags(model.model_id, tags)
        self._move_aliases(versions)

    def _logged(self) -> dict[str, LoggedModel]:
        """The study's complete models by trial; incomplete ones are deleted."""
        query = f"tags.`{STUDY_ID_TAG}` = '{self.file.id}'"
        search = partial(self.client.search_logged_models, [self.experiment_id], query)
        found = all_pages(search)
        for model in found:
            if model.status != LoggedModelStatus.READY:  # the driver ended before it was complete
                self.client.delete_logged_model(model.model_id)
        return {m.tags[TRIAL_TAG]: m for m in found if m.status == LoggedModelStatus.READY}

    def _log(self, member: Record, folder: Path) -> LoggedModel:
        """Logs a model with its flavour, signature, card, example and metrics."""
        assert member.metrics
        assert member.config
        run, study = self.runs[member.trial_id], self.file.config.name
        card = model_card(member, self.file)
        tags = {
            STUDY_TAG: study,
            STUDY_ID_TAG: self.file.id,
            TRIAL_TAG: member.trial_id,
            FRONT_TAG: "true",
            **latency_tags(member),
            "student": member.config.student.describe(),
            "recipe": member.config.recipe.name,
            MLFLOW_RUN_NOTE: fit_note(card),
        }
        model = self.client.create_logged_model(
            self.experiment_id,
            model_name(study, member.trial_id),
            run,
            tags,
            written_params(member.params),
            MODEL_TYPE,
        )
        with TemporaryDirectory() as aside:
            path = Path(aside) / "model"
            save_model(path, folder, self.file, self.example, model.model_id)
            replace_file(path / MODEL_CARD, card.encode())
            self.client.log_model_artifacts(model.model_id, str(path))
        measured = {name: getattr(member.metrics, name) for name in LOGGED}
        measured[LATENCY_MS] = member.latency_ms
        epoch, now = member.metrics.epoch, member.metrics.time_ms
        metrics = [
            Metric(name, float(value), now, epoch, model_id=model.model_id, run_id=run)
            for name, value in measured.items()
            if value is not None
        ]
        self.client.log_batch(run, metrics=metrics)
        return self.client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)

    def _make_registry(self) -> None:
        about = f"Models of the fronts of all studies on {data_name(self.file)}"
        try:
            self.client.create_registered_model(self.registry, description=about)
        except MlflowException as error:
            if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
                raise

    def _versions(self) -> list[ModelVersion]:
        """All versions of the data set's models, oldest first."""
        search = partial(self.client.search_model_versions, f"name = '{self.registry}'")
        return sorted(all_pages(search), key=lambda version: int(version.version))

    def _register(self, member: Record, model: LoggedModel) -> ModelVersion:
        assert member.metrics
        tags = {
            STUDY_TAG: self.file.config.name,
            TRIAL_TAG: member.trial_id,
            MIOU_TAG: str(member.metrics.miou),
            BYTES_TAG: str(member.metrics.size_bytes),
            LABELS_TAG: self.file.label_size,
            FRONT_TAG: "true",
        }
        return self.client.create_model_version(
            self.registry,
            # Not models:/ID, which MLflow looks for in the store of the environment
            model.artifact_location,
            model.source_run_id,
            tags,
            description=fit_note(model_card(member, self.file), MAX_DESCRIPTION),
            model_id=model.model_id,
        )

    def _move_aliases(self, versions: Sequence[ModelVersion]) -> None:
        """Lets each alias name its version where that is another one now."""
        known = self.client.get_registered_model(self.registry).aliases
        candidates = [found for version in versions if (found := as_candidate(version))]
        chosen = choose_aliases(candidates)
        for alias, number in chosen.items():
            if str(known.get(alias)) != number:
                self.client.set_registered_model_alias(self.registry, alias, number)
        for alias in LIMITS.keys() & known.keys() - chosen.keys():
            self.client.delete_registered_model_alias(self.registry, alias)


def links_of(model: LoggedModel) -> list[dict[str, Any]]:
    """The versions that MLflow's pages show beside a logged model: names and numbers."""
    links: list[dict[str, Any]] = json.loads(model.tags.get(MLFLOW_MODEL_VERSIONS, "[]"))
    return links


def save_model(
    path: Path, folder: Path, file: StudyFile, example: bytes | None, model_id: str
) -> None:
    """Writes the folder of a trial's model to `path`, in MLflow's format, with an input example."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is no example
        pyfunc.save_model(
            path,
            loader_module=mlflow_loader.__name__,
            data_path=str(folder),
            signature=SIGNATURE,
            input_example=None if example is None else pd.DataFrame({IMAGE: [example]}),
            pip_requirements=[f"{name}=={version_of(name).split('+')[0]}" for name in PACKAGES],
            model_config={LONGEST_SIDE: file.config.image_size},
            metadata={"classes": list(file.class_names)},
            mlflow_model=Model(model_id=model_id),
        )


def example_image(folder: Path) -> bytes | None:
    """A JPEG file of the first validation image that a study shows; None where it shows none."""
    examples = read_examples(folder / EXAMPLES)
    if examples is None:
        return None
    content = BytesIO()
    Image.fromarray(examples.images[0]).save(content, "JPEG", quality=90)
    return content.getvalue()
