"""The key of a training's artifact and checkpoints: all that determines its outcome."""

import json

import torch

from trainables.config import ExecutionConfig, TrialConfig
from trainables.core.artifacts import ArtifactStore
from trainables.core.files import hash_file_once
from trainables.data.packed import open_pack
from trainables.models.base import supports_fast_bf16
from trainables.training.cost import find_roles

FORMAT = 4
"""Version of trained artifacts: to be raised when a configuration trains differently, by more than
the rounding of sums, in which processors differ, too."""

ARTIFACT_KIND = "student"
"""Of trained networks, teachers among them."""


def training_facts(config: TrialConfig, run: ExecutionConfig) -> dict[str, object]:
    """All that determines the outcome of a training."""
    key: dict[str, object] = {
        "format": FORMAT,
        "config": config.model_dump(mode="json"),
        "data": run.data.name,
        "bfloat16": supports_fast_bf16(torch.device(run.device)),
    }
    if config.needs_teacher and run.teacher:
        key["teacher"] = hash_file_once(run.teacher_file)
        key["teacher_outputs"] = run.teacher_outputs and run.teacher_outputs.name
        if run.unlabelled:
            key["unlabelled"] = run.unlabelled.name
    if learns_weights_of_losses(config):
        key["learned_weights"] = "labels too"  # earlier versions balanced the terms alone
    if config.quantizer:
        key["grids"] = "shared"  # earlier versions calibrated them for their last reader
        key["file"] = 3  # formats of earlier versions kept 32 bits of steps and biases
        key["steps"] = "unscaled"  # earlier versions scaled their gradients as LSQ's paper does
    if config.quantizer and has_additions(config, run):
        key["additions"] = "quantized"  # earlier versions computed them on floats
    if (weights := config.student.weights_key()) is not None:
        key["weights"] = weights
    return key


def learns_weights_of_losses(config: TrialConfig) -> bool:
    """Whether weights of losses are learned in any part of the training."""
    return any(getattr(stage, "term_weights", None) == "learned" for stage in config.stages)


def has_additions(config: TrialConfig, run: ExecutionConfig) -> bool:
    """Whether the student adds feature maps."""
    return bool(find_roles(config.student, open_pack(run.data).num_classes).additions)


def training_key(config: TrialConfig, run: ExecutionConfig) -> str:
    """The same as a text."""
    return json.dumps(training_facts(config, run), sort_keys=True)


def older_training_facts(config: TrialConfig, run: ExecutionConfig) -> dict[str, object]:
    """The facts as version 0.2 wrote them, which named a teacher by the folder of its artifact.

    Quantized trainings of that version are not found: they are not what this version would train.
    """
    facts = training_facts(config, run)
    if "teacher" in facts and run.teacher:
        facts["teacher"] = run.teacher.parent.name
    return facts


def older_training_key(config: TrialConfig, run: ExecutionConfig) -> str:
    """The same as a text."""
    return json.dumps(older_training_facts(config, run), sort_keys=True)


def artifact_key(
    config: TrialConfig, run: ExecutionConfig, store: ArtifactStore
) -> dict[str, object]:
    """The key of a training as an artifact: that of version 0.2 where one is kept under it."""
    older = older_training_facts(config, run)
    return older if store.find(ARTIFACT_KIND, older) else training_facts(config, run)
