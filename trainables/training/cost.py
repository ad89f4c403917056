"""Predicts the costs of a student before it is trained."""

from functools import lru_cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from trainables.config import TrialConfig
from trainables.models.base import StudentNetwork
from trainables.models.configs import NetworkConfig, StudentConfig
from trainables.models.model_file import ModelSpec, serialize


def model_spec(config: TrialConfig, num_classes: int) -> ModelSpec:
    """The spec of the finished student."""
    return ModelSpec(model=config.student, num_classes=num_classes, quantizer=config.quantizer)


def predict_size_bytes(config: TrialConfig, num_classes: int) -> int:
    """The exact length of the model file, which does not depend on the training's outcome."""
    return _file_length(model_spec(config, num_classes).model_dump_json())


@lru_cache(maxsize=1024)
def _file_length(card_json: str) -> int:
    card = ModelSpec.model_validate_json(card_json)
    with torch.random.fork_rng(devices=[]):
        return len(serialize(card.build(), card))


@lru_cache(maxsize=1024)
def meta_network(student: StudentConfig, num_classes: int) -> StudentNetwork:
    """The network of a student on the meta device; it is cached and must not be changed."""
    with torch.device("meta"):
        return student.build(num_classes)


def count_params(student: StudentConfig, num_classes: int) -> int:
    """Weights and biases of the full-precision student, without quantization steps."""
    return sum(p.numel() for p in meta_network(student, num_classes).parameters())


@lru_cache(maxsize=1024)
def count_macs(student: NetworkConfig, num_classes: int, height: int, width: int) -> int:
    """Multiply-accumulates for one image of `height` x `width` pixels."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        student.build(num_classes).eval()(torch.empty(1, 3, height, width))
    return int(counter.get_total_flops()) // 2
