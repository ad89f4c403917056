"""Flags of commands: what the help says of them, and errors that name them."""

from pathlib import Path

import pytest
from factories import make_config

from search.core.comparison_config import ComparisonConfig
from search.core.config import StudyConfig
from search.run import make_parser
from trainables.core.config_base import FrozenConfig
from trainables.core.flags import Flag, build_config, default_values, flag_name, flags_of
from trainables.training.training_config import TrainingConfig

DEFAULTS = [
    (config, field)
    for config in (StudyConfig, ComparisonConfig, TrainingConfig)
    for field in default_values(config)
]


@pytest.mark.parametrize("field", StudyConfig.model_fields)
def test_whatever_is_wrong_with_a_field_names_its_flag_as_it_is_typed(field: str) -> None:
    flag = flag_name(StudyConfig, field)
    is_switch = StudyConfig.model_fields[field].annotation is bool
    assert (f"[{flag}]" if is_switch else f"[{flag} ") in make_parser().format_usage().replace(
        "\n", " "
    )
    values = dict(make_config(Path("/s"), "shapes"))
    with pytest.raises(ValueError, match=f"^{flag}: .*, but got <object"):
        build_config(StudyConfig, {**values, field: object()})


@pytest.mark.parametrize(
    ("config", "other", "own"),
    [
        (StudyConfig, TrainingConfig, {"teacher", "teacher_outputs"}),
        (ComparisonConfig, StudyConfig, {"students", "teacher_outputs", "steps", "epochs", "name"}),
    ],
)
def test_fields_of_another_configuration_have_all_of_its_limits(
    config: type[FrozenConfig], other: type[FrozenConfig], own: set[str]
) -> None:
    """Also those that are part of the type, which is written twice."""
    for field in (config.model_fields.keys() & other.model_fields.keys()) - own:
        assert limits(config, field) == limits(other, field), field


def limits(config: type[FrozenConfig], field: str) -> tuple[object, list[object]]:
    info = config.model_fields[field]
    return info.annotation, [item for item in info.metadata if not isinstance(item, Flag)]


@pytest.mark.parametrize(("config", "field"), DEFAULTS)
def test_the_help_names_the_default(config: type[FrozenConfig], field: str) -> None:
    flag, default = flags_of(config)[field], default_values(config)[field]
    if default is None or default is False or default == ():  # nothing is typed, nothing happens
        assert "{default}" not in flag.help
    else:
        assert "{default}" in flag.help
        text = flag.unit.write(default) if flag.unit else default
        read = flag.unit.parse(text) if flag.unit else text
        assert read == (default.absolute() if isinstance(default, Path) else default)
