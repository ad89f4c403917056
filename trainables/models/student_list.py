"""Lists of students as people write them, and the pretrained weights at hand for them."""

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from trainables.core.optional_dependencies import has_backbone_weights, has_timm
from trainables.models.configs import (
    IMAGENET,
    IN_PACKAGES,
    IN_TORCHVISION,
    WITH_WEIGHTS,
    EncoderDecoderConfig,
    InputNormalizationName,
    StudentConfig,
    TracedConfig,
    WeightSources,
    weights_digest,
)


def parse_students(text: str) -> tuple[StudentConfig, ...]:
    """The students of "unet,unet_resnet18:imagenet".

    Raises:
        ValueError: there is no such student, one is named twice, or torchvision has no weights of
            its backbone.
    """
    return check_distinct(tuple(parse_student(item) for item in text.split(",")))


def check_distinct(students: tuple[StudentConfig, ...]) -> tuple[StudentConfig, ...]:
    """The students themselves; raises ValueError where a family is named twice."""
    names = [student.name for student in students]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(
            f"each must be named once, with weights or without, but {twice[0]} is named again"
        )
    return students


def listed_families() -> dict[str, type[StudentConfig]]:
    """The families that a name stands for: all but traced networks."""
    families = StudentConfig.members()
    return {name: family for name, family in families.items() if family is not TracedConfig}


def parse_student(text: str) -> StudentConfig:
    name, _, weights = text.partition(":")
    families = listed_families()
    if (family := families.get(name)) is None:
        near = get_close_matches(name, families)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ValueError(f"each must be one of {', '.join(families)}, but got {name!r}{hint}")
    fields = {"name": name, **({"weights": weights} if weights else {})}
    if weights and name.endswith(tuple(IN_PACKAGES)):
        fields["input_normalization"] = "symmetric"
    takes_weights = issubclass(family, EncoderDecoderConfig) and name.endswith(WITH_WEIGHTS)
    if weights and (weights != IMAGENET or not takes_weights):
        backbones = ", ".join(WITH_WEIGHTS)
        raise ValueError(
            f"only :{IMAGENET} may follow a name, for the backbones {backbones}, but got {text!r}"
        )
    return family.model_validate(fields)


def write_students(students: Sequence[StudentConfig]) -> str:
    """The text that `parse_students` reads; weights of files are named by their content."""
    return ",".join(map(write_student, students))


def write_student(student: StudentConfig) -> str:
    if isinstance(student, TracedConfig):
        return student.label
    weights = student.weights if isinstance(student, EncoderDecoderConfig) else None
    return f"{student.name}:{weights}" if weights else student.name


def students_with_weights_at_hand() -> list[StudentConfig]:
    """U-Nets with backbones of which torch's cache, or a package, has ImageNet weights."""
    import torch

    packaged = [
        parse_student(f"unet_{name}:{IMAGENET}")
        for name, package in IN_PACKAGES.items()
        if has_timm() and has_backbone_weights(package)
    ]
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    found = [name for name in IN_TORCHVISION if any(folder.glob(f"{name}-*.pth"))]
    if not found:  # torchvision takes seconds to import
        return packaged
    from trainables.models.backbone_weights import imagenet_file_name

    complete = [name for name in found if (folder / imagenet_file_name(name)).is_file()]
    return [*(parse_student(f"unet_{name}:{IMAGENET}") for name in complete), *packaged]


def students_of_file(
    file: Path, students: Sequence[StudentConfig], normalization: InputNormalizationName
) -> dict[StudentConfig, StudentConfig]:
    """The students whose backbones, at some multiplier, a file fits: without and with its weights.

    Raises:
        ValueError: it fits none; the message is about the nearest.
    """
    from trainables.models.backbone_weights import count_known_keys

    if not file.is_file():
        raise ValueError(f"--backbone-weights must be a file, but there is no {file}")
    digest, nearest = weights_digest(file), list[tuple[int, ValueError]]()
    fitting: dict[StudentConfig, StudentConfig] = {}
    for student in students:
        if not isinstance(student, EncoderDecoderConfig) or student.weights is not None:
            continue
        for multiplier in student.choices().get("multiplier", (student.multiplier,)):
            named = student.replace(
                weights=digest, input_normalization=normalization, multiplier=multiplier
            )
            try:
                named.fetch_weights(WeightSources(backbones=(file,)))
            except ValueError as error:
                nearest.append((count_known_keys(named, file), error))
            else:
                fitting[student] = named
                break
    if fitting:
        return fitting
    if nearest:
        raise max(nearest, key=lambda pair: pair[0])[1]
    raise ValueError(
        f"--students must name a student with a backbone for {file}, such as unet_mobilenet_v2"
    )


def complete_students(
    students: Sequence[StudentConfig] | None,
    files: Sequence[Path],
    normalization: InputNormalizationName,
    default: Sequence[StudentConfig] = (),
    others: Sequence[StudentConfig] = (),
) -> tuple[StudentConfig, ...]:
    """The students of a new study or comparison, with the weights of files.

    Args:
        students: as the user named them; None for `default`, and those with weights at hand.
        others: networks that a file may fit instead, as a teacher (see `complete_teacher`).

    Raises:
        ValueError: a file fits none of the students, or one needs a package that is missing.
    """
    if students is None:
        by_name = {s.name: s for s in (*default, *students_with_weights_at_hand())}
        own = {student.name for student in default}
        families = listed_families() if files else {}
        names = [name for name in families if name.startswith("unet_") or name in own]
        candidates = [student for student in map(parse_student, names) if can_be_built(student)]
        for file in files:
            fitting = students_of_file(file, [*candidates, *others], normalization)
            by_name |= {s.name: fitting[s] for s in candidates if s in fitting}
        chosen = tuple(by_name.values())
    else:
        completed: dict[StudentConfig, StudentConfig] = {}
        for file in files:
            completed |= students_of_file(file, [*students, *others], normalization)
        chosen = tuple(completed.get(student, student) for student in students)
    for student in chosen:
        build_shapes(student)
    return chosen


def complete_teacher(
    teacher: StudentConfig, files: Sequence[Path], normalization: InputNormalizationName
) -> StudentConfig:
    """A teacher that is named as a student, with the weights of the last file that fits it.

    Raises:
        ValueError: no file fits a backbone that has no weights, or a package is missing.
    """
    takes_weights = isinstance(teacher, EncoderDecoderConfig) and teacher.weights is None
    if takes_weights and files:
        fitting, problems = list[StudentConfig](), list[ValueError]()
        for file in files:
            try:
                fitting += students_of_file(file, [teacher], normalization).values()
            except ValueError as error:
                problems.append(error)
        if not fitting:
            raise problems[-1]
        teacher = fitting[-1]
    build_shapes(teacher)
    return teacher


def can_be_built(student: StudentConfig) -> bool:
    """Whether all packages that a student needs are installed."""
    try:
        build_shapes(student)
    except ValueError:
        return False
    return True


def build_shapes(student: StudentConfig) -> None:
    """Builds a student without its values; raises ValueError where a package is missing."""
    import torch

    with torch.device("meta"):
        student.build(num_classes=2)
