"""What each student costs, for people who choose among them."""

from collections.abc import Iterator

from trainables.config import TrialConfig
from trainables.models.configs import StudentConfig
from trainables.models.student_list import listed_families
from trainables.quantization.quantizers.configs import DEFAULT_QUANTIZER
from trainables.recipes.configs import Recipe
from trainables.training.cost import count_macs, count_params, predict_size_bytes

NUM_CLASSES, IMAGE_SIZE = 21, 160
"""Of PASCAL VOC, and in pixels, of the default on a CPU."""


def student_table() -> Iterator[str]:
    """A line for each family, with the costs of its smallest and its largest student."""
    yield (
        f"{'student':30}{'parameters':>24}{'MACs':>18}{'bytes at 8 bits':>24}\n"
        f"(smallest and largest of a search; {NUM_CLASSES} classes, "
        f"{IMAGE_SIZE}x{IMAGE_SIZE} pixels)"
    )
    for name, family in listed_families().items():
        student = family.model_validate({"name": name})
        ends = [
            student.replace(**{field: values[end] for field, values in student.choices().items()})
            for end in (0, -1)
        ]
        try:
            costs = [costs_of(student) for student in ends]
        except ValueError as error:  # a package is missing
            yield f"{name:30}{error}"
            continue
        params, macs, sizes = zip(*costs, strict=True)
        yield (
            f"{name:30}{params[0]:>11,} {params[1]:>12,}"
            f"{macs[0] / 1e6:>9.0f}M{macs[1] / 1e6:>7.0f}M{sizes[0]:>12,}{sizes[1]:>12,}"
        )


def costs_of(student: StudentConfig) -> tuple[int, int, int]:
    """Parameters, multiply-accumulates, and the bytes of the file with 8 bits everywhere."""
    quantizer = DEFAULT_QUANTIZER.replace(weight_bits=8, activation_bits=8)
    recipe = Recipe.model_validate({"name": "ptq", "quantizer": quantizer})
    config = TrialConfig(student=student, recipe=recipe, num_epochs=1)
    return (
        count_params(student, NUM_CLASSES),
        count_macs(student, NUM_CLASSES, IMAGE_SIZE, IMAGE_SIZE),
        predict_size_bytes(config, NUM_CLASSES),
    )
