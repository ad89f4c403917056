"""What a comparison trains: each recipe on each student, with equal lengths and paired seeds.

The rules that make a difference between two recipes one of the recipes:

- Seed k sets the weights that a student begins with, the order of the data and the augmentation, of
  the student and of the start that a quantized student begins from. It is the same k for every
  recipe, so that the trainings of one seed form a pair.
- All students of a comparison are trained for the same number of optimizer steps, the start of
  quantized ones included, so that `supervised` is the full-precision twin of any quantized recipe.
  A student that came trained is itself the start, and what it is quantized by has all steps.
- Data, teacher, batch size, augmentation, and all else that a `TrialConfig` holds besides student
  and recipe, are the same for all.

What is measured is the last epoch of each training, not the best, on the validation split.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from search.core.comparison_config import ComparisonConfig
from search.core.recipe_list import ComparedRecipe
from trainables.config import TrialConfig
from trainables.core.command_line import OWN_RULE
from trainables.models.configs import DEFAULT_STUDENT, StudentConfig
from trainables.training.defaults import PRETRAINING_LENGTH, Defaults, quantized_as_it_came

OWN_FIELDS = ("student", "recipe", "num_epochs", "seed")
"""Fields of `TrialConfig` in which the trainings of a comparison may differ."""

ABSENT = object()


@dataclass(frozen=True)
class Arm:
    """One recipe on one student: a training for each seed, from 0 on.

    `reference` is the arm that it is compared with; None for a reference itself.
    """

    student: str
    recipe: str
    configs: tuple[TrialConfig, ...]
    reference: "Arm | None" = None

    @property
    def name(self) -> str:
        """Its name among the arms of a comparison."""
        return f"{self.student}, {self.recipe}"

    def training_name(self, seed: int) -> str:
        """The name of one of its trainings."""
        return f"{self.name}, seed {seed}"


def plan_arms(config: ComparisonConfig, defaults: Defaults) -> list[Arm]:
    """The arms of a comparison: by student, in the order of the recipes.

    The reference is the first recipe on the same student; or, if that came from a file, on its own.

    Raises:
        ValueError: recipes cannot be compared; the message says which, and why.
    """
    conditions = common_conditions(config.recipes)
    first, *others = config.recipes
    of_files = [recipe.file.student for recipe in others if recipe.file]
    students = distinct(
        [*([first.file.student] if first.file else []), *config.students, *of_files]
    )
    arms, reference = list[Arm](), None
    for student, label in zip(students, describe_all(students), strict=True):
        for recipe in config.recipes:
            if recipe.file and recipe.file.student != student:
                continue
            trial = complete(recipe, student, config.epochs, defaults).replace(**conditions)
            check_trial(recipe, trial, config.epochs)
            trials = tuple(trial.replace(seed=seed) for seed in range(config.seeds))
            arm = Arm(label, recipe.name, trials, None if recipe is first else reference)
            reference = arm if recipe is first else reference
            arms.append(arm)
    return arms


def distinct(students: Sequence[StudentConfig]) -> list[StudentConfig]:
    """The students, each once, in order."""
    return list({student.digest(): student for student in students}.values())


def describe_all(students: Sequence[StudentConfig]) -> list[str]:
    """A name for each student, with a digest where two are described alike."""
    names = [student.describe() for student in students]
    return [
        name if names.count(name) == 1 else f"{name} {student.digest()[:4]}"
        for name, student in zip(names, students, strict=True)
    ]


def default_students(recipes: Sequence[ComparedRecipe]) -> tuple[StudentConfig, ...]:
    """The students of files, or the default one."""
    found = distinct([recipe.file.student for recipe in recipes if recipe.file])
    return tuple(found) or (DEFAULT_STUDENT,)


def default_epochs(
    recipes: Sequence[ComparedRecipe], defaults: Defaults, num_images: int, num_steps: int | None
) -> int:
    """The length of so many steps on so many training images.

    Without a number of steps, that of the longest file; else three times that of a full training in
    a search, for students that have to be trained to the end.
    """
    lengths = [trained_epochs(recipe.file) for recipe in recipes if recipe.file]
    if num_steps is None and any(lengths):
        return max(lengths)
    default = (1 + PRETRAINING_LENGTH) * defaults.num_steps
    return defaults.num_epochs(num_steps or default, num_images)


def common_conditions(recipes: Sequence[ComparedRecipe]) -> dict[str, object]:
    """All that the configuration files set besides `OWN_FIELDS`; nothing without files.

    Raises:
        ValueError: two files differ.
    """
    found: dict[str, object] = {}
    files = [(recipe.name, recipe.file) for recipe in recipes if recipe.file]
    for name, file in files:
        for field in TrialConfig.model_fields.keys() - set(OWN_FIELDS):
            value = getattr(file, field)
            if found.setdefault(field, value) != value:
                raise ValueError(
                    f"compared files must have one {field}, but {files[0][0]} has {found[field]} "
                    f"and {name} has {value}"
                )
    return found


def complete(
    recipe: ComparedRecipe, student: StudentConfig, num_epochs: int, defaults: Defaults
) -> TrialConfig:
    """The training of a recipe at `num_epochs` in all, its start's included.

    They are divided between start and own training as in a file, or as in a search, where a student
    that came trained is quantized as it is.
    """
    if recipe.file:
        return with_length(recipe.file, num_epochs)
    try:
        trial = TrialConfig(student=student, recipe=recipe.recipe, num_epochs=1)
    except ValidationError as error:
        problem = error.errors()[0]["msg"].removeprefix(OWN_RULE)
        raise ValueError(f"{recipe.name}: {problem}") from error
    trial = quantized_as_it_came(trial)
    quantized = recipe.recipe.quantized
    length = max(1, num_epochs - ((quantized and quantized.start_epochs) or 0))
    return with_length(defaults.complete(trial, length, seed=0), num_epochs)


def with_length(trial: TrialConfig, num_epochs: int) -> TrialConfig:
    """The training at `num_epochs` in all; what is not trained, but measured, stays as it is."""
    start = trial.start
    if start is None or start.recipe.only_calibrates:
        return trial if trial.recipe.only_calibrates else trial.replace(num_epochs=num_epochs)
    if trial.recipe.only_calibrates:
        return trial.with_recipe(start_epochs=num_epochs)
    share = start.num_epochs / (start.num_epochs + trial.num_epochs)
    before = max(1, min(num_epochs - 1, round(share * num_epochs)))
    after = max(1, num_epochs - before)
    return trial.with_recipe(start_epochs=before).replace(num_epochs=after)


def check_trial(recipe: ComparedRecipe, trial: TrialConfig, num_epochs: int) -> None:
    """Raises ValueError where a recipe cannot be trained for so many epochs in all."""
    trial.quantizer  # noqa: B018 - raises where bits are not allocated
    if trained_epochs(trial) not in (0, num_epochs):
        raise ValueError(
            f"--epochs must be at least 2 for {recipe.name}, which begins from a trained start, "
            f"but got {num_epochs}"
        )
    wanted, quantized = recipe.recipe.quantized, trial.recipe.quantized
    if recipe.file or wanted is None or quantized is None or wanted.start_epochs is None:
        return
    if wanted.start_epochs != quantized.start_epochs:
        raise ValueError(
            f"start_epochs of {recipe.name} must leave epochs for its own training, and be all "
            f"where it only calibrates, but got {wanted.start_epochs} of {num_epochs}"
        )


def own_epochs(trial: TrialConfig) -> int:
    """Epochs in which a student is trained after its start; 0 where it is only calibrated."""
    return 0 if trial.recipe.only_calibrates else trial.num_epochs


def start_epochs(trial: TrialConfig) -> int:
    """Epochs of the full-precision start; 0 where there is none, or it came trained."""
    return own_epochs(trial.start) if trial.start else 0


def trained_epochs(trial: TrialConfig) -> int:
    """Epochs in which a student is trained, its start included."""
    return own_epochs(trial) + start_epochs(trial)


def plan_trainings(arms: Sequence[Arm]) -> dict[str, TrialConfig]:
    """The trainings of all arms and of their starts by name, each configuration once."""
    found: dict[str, tuple[str, TrialConfig]] = {}
    for seed in range(len(arms[0].configs)):
        for arm in arms:
            config = arm.configs[seed]
            found.setdefault(config.digest(), (arm.training_name(seed), config))
    for arm in arms:
        for config in arm.configs:
            if (start := config.start) is not None:
                name = f"{arm.student}, start of {arm.recipe}, seed {config.seed}"
                found.setdefault(start.digest(), (name, start))
    return dict(found.values())


def varying_leaves(configs: Sequence[TrialConfig]) -> list[str]:
    """The paths of what some configurations do not have in common."""
    trees = [config.flatten() for config in configs]
    paths = dict.fromkeys(path for tree in trees for path in tree)
    return [path for path in paths if len({str(tree.get(path, ABSENT)) for tree in trees}) > 1]
