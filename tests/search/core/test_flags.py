"""Flags: declared on the fields of a configuration, and named in what is said of them."""

import argparse
from pathlib import Path
from typing import Annotated, Literal

import pytest
from factories import make_config
from pydantic import Field, model_validator

from search.core import units
from search.core.config import StudyConfig
from search.core.flags import (
    Flag,
    add_flag,
    build_config,
    default_values,
    flag_name,
    flags_of,
    typed_values,
)
from search.run import make_parser
from trainables.core.config_base import FrozenConfig


class Oven(FrozenConfig):
    """Some fields as a command declares them."""

    heat_s: Annotated[
        float, Field(gt=0), Flag("how", "time at heat (default: {default})", units.TIME)
    ] = 60.0
    top_bytes: Annotated[int | None, Flag("how", "of the log", units.SIZE)] = None
    mode: Annotated[Literal["grill", "fan"], Flag("how", "grill: from above")]

    @model_validator(mode="after")
    def check_mode(self) -> "Oven":
        if self.mode == "grill" and self.heat_s > 100:
            raise ValueError(f"--heat of --mode grill must be at most 100s, but got {self.heat_s}")
        return self


def parse(*argv: str) -> dict[str, object]:
    parser = argparse.ArgumentParser()
    for field in flags_of(Oven):
        add_flag(parser.add_argument, Oven, field)
    return typed_values(Oven, parser.parse_args(argv))


def test_a_flag_is_its_field_without_the_unit() -> None:
    assert [flag_name(Oven, field) for field in flags_of(Oven)] == ["--heat", "--top", "--mode"]


def test_values_are_parsed_by_their_units_and_nothing_else_is_set() -> None:
    assert parse() == {}
    assert parse("--heat", "2m", "--top", "3KB") == {"heat_s": 120, "top_bytes": 3000}
    assert default_values(Oven) == {"heat_s": 60, "top_bytes": None}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--heat", "long"], "argument --heat: a time must be a positive number"),
        (["--top", "big"], "argument --top: a size must be a positive number"),
        (["--mode", "boil"], "argument --mode: invalid choice: 'boil'"),
    ],
)
def test_a_text_that_is_no_value_is_refused(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse(*argv)
    assert message in capsys.readouterr().err


def test_a_rule_about_several_fields_names_their_flags() -> None:
    assert build_config(Oven, {"mode": "fan", "heat_s": 200}).heat_s == 200
    with pytest.raises(ValueError, match=r"^--heat of --mode grill must be .*, but got 200\.0$"):
        build_config(Oven, {"mode": "grill", "heat_s": 200})


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


@pytest.mark.parametrize("field", default_values(StudyConfig))
def test_the_help_names_the_default(field: str) -> None:
    flag, default = flags_of(StudyConfig)[field], default_values(StudyConfig)[field]
    if default is None or default is False or default == ():  # nothing is typed, nothing happens
        assert "{default}" not in flag.help
    else:
        assert "{default}" in flag.help
        text = flag.unit.write(default) if flag.unit else default
        read = flag.unit.parse(text) if flag.unit else text
        assert read == (default.absolute() if isinstance(default, Path) else default)
