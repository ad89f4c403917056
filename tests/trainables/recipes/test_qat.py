"""The calibrated student that quantization-aware training starts from."""

from itertools import islice

import pytest
import torch
from factories import ShortTask

from trainables.config import ExecutionConfig
from trainables.quantization.prepare import calibrate, prepare
from trainables.quantization.quantizers.configs import Lsq
from trainables.recipes.configs import Ptq


@pytest.mark.parametrize("parts", [1, 2])
def test_steps_are_those_of_the_first_four_batches_of_eight(
    parts: int, blocks_run: ExecutionConfig
) -> None:
    task = ShortTask(Ptq(), blocks_run, batch_size=8)
    task.accumulation_steps = parts
    (epoch,) = task.config.recipe.train(task)
    images = torch.cat([batch.images for batch in islice(task.batches(1), 4)])
    assert len(images) == 32 // parts
    expected = prepare(task.pretrained_student(), Lsq())
    calibrate(expected, images)
    torch.testing.assert_close(epoch.student.state_dict(), expected.state_dict(), rtol=0, atol=0)
