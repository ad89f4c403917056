"""Flags: declared on the fields of a configuration, and named in what is said of them."""

import argparse
from typing import Annotated, Literal

import pytest
from pydantic import Field, model_validator

from trainables.core import units
from trainables.core.config_base import FrozenConfig
from trainables.core.flags import (
    Flag,
    add_flag,
    build_config,
    default_values,
    field_of,
    flag_name,
    flags_of,
    group_flags,
    typed_values,
)


class Oven(FrozenConfig):
    """Some fields as a command declares them."""

    heat_s: Annotated[
        float, Field(gt=0), Flag("how", "time at heat (default: {default})", units.TIME)
    ] = 60.0
    top_bytes: Annotated[int | None, Flag("where", "of the log", units.SIZE)] = None
    mode: Annotated[Literal["grill", "fan"], Flag("how", "grill: from above")]

    @model_validator(mode="after")
    def check_mode(self) -> "Oven":
        if self.mode == "grill" and self.heat_s > 100:
            raise ValueError(f"--heat of --mode grill must be at most 100s, but got {self.heat_s}")
        return self


class Kiln(FrozenConfig):
    """An oven's field as another command declares it."""

    heat_s: float = field_of(Oven, "heat_s", group="fire", immutable=True)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    for field, add in group_flags(parser, Oven).items():
        add_flag(add, Oven, field)
    return parser


def parse(*argv: str) -> dict[str, object]:
    return typed_values(Oven, make_parser().parse_args(argv))


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


def test_the_help_lists_flags_by_their_groups() -> None:
    lines = [line.split()[0] for line in make_parser().format_help().splitlines() if line]
    assert lines[-5:] == ["how:", "--heat", "--mode", "where:", "--top"]


def test_a_field_of_another_configuration_keeps_its_flag_limits_and_default() -> None:
    flag = flags_of(Kiln)["heat_s"]
    assert (flag.group, flag.immutable) == ("fire", True)
    assert (flag.help, flag.unit) == (flags_of(Oven)["heat_s"].help, units.TIME)
    assert flags_of(Oven)["heat_s"].group == "how"
    assert build_config(Kiln, {}).heat_s == 60
    with pytest.raises(ValueError, match=r"^--heat: Input should be greater than 0, but got -1$"):
        build_config(Kiln, {"heat_s": -1})
