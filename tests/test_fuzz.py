"""Randomly altered files of our own formats are refused with our error or read, never a crash."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from search.core.objectives import MIOU_AND_SIZE
from search.storage.journal import open_journal
from search.storage.study_file import read_study_file
from search.storage.trials import asked_trials, read_record
from trainables.core.artifact_record import find_damage
from trainables.core.artifacts import ArtifactStore, read_artifact
from trainables.data.arrow_table import ArrowTable, write_table
from trainables.data.packed import open_pack
from trainables.models.configs import UNetConfig
from trainables.models.model_file import ModelSpec, deserialize, read_spec, serialize
from trainables.quantization.quantizers.configs import Lsq

FUZZ = settings(
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@st.composite
def alterations(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """A few bytes changed, inserted, taken out, or the end cut off."""
    places = draw(
        st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=8)), max_size=4)
    )
    kind = draw(st.sampled_from(["overwrite", "insert", "delete", "cut"]))

    def alter(content: bytes) -> bytes:
        altered = bytearray(content)
        for share, piece in places:
            place = int(share * len(altered))
            match kind:
                case "overwrite":
                    altered[place : place + len(piece)] = piece
                case "insert":
                    altered[place:place] = piece
                case "delete":
                    del altered[place : place + len(piece)]
                case _:
                    del altered[place:]
        return bytes(altered)

    return alter


@contextmanager
def refused_or_read(*words: str) -> Iterator[None]:
    """Errors of any other type, or that say none of the `words`, are crashes."""
    try:
        yield
    except ValueError as error:
        if not any(each in str(error) for each in words):
            raise


@pytest.fixture(scope="session")
def model_file() -> bytes:
    card = ModelSpec(model=UNetConfig(width=2, depth=1), num_classes=3, quantizer=Lsq())
    torch.manual_seed(0)
    return serialize(card.build(), card)


@FUZZ
@given(alter=alterations())
def test_an_altered_model_file(alter: Callable[[bytes], bytes], model_file: bytes) -> None:
    try:
        model = deserialize(alter(model_file))
    except ValueError:
        return
    assert isinstance(model, torch.nn.Module)


@FUZZ
@given(content=st.binary(max_size=300))
def test_bytes_as_a_model_file(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        deserialize(content)
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"intact \.safetensors"):
        read_spec(path)


@FUZZ
@given(width=st.integers(1, 512), depth=st.integers(1, 6), classes=st.integers(2, 255))
def test_a_card_cannot_ask_for_a_large_network(
    width: int, depth: int, classes: int, model_file: bytes
) -> None:
    """The largest has 10**10 weights: it would be built before anyone saw that they are missing."""
    length = int.from_bytes(model_file[:8], "little")
    header = json.loads(model_file[8 : 8 + length])
    card = json.loads(header["__metadata__"]["paretoseg"])
    card["model"] |= {"width": width, "depth": depth}
    card["num_classes"] = classes
    header["__metadata__"]["paretoseg"] = json.dumps(card)
    text = json.dumps(header).encode()
    content = len(text).to_bytes(8, "little") + text + model_file[8 + length :]
    # what belongs to a grid depends on the network, too
    with refused_or_read("values than its network has", "must have a zero point"):
        deserialize(content)
        assert (width, depth, classes) == (2, 1, 3)


@FUZZ
@given(alter=alterations())
def test_an_altered_table(alter: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = tmp_path / "table.arrow"
    chunk = {"image": np.zeros((3, 4, 4, 3), np.uint8), "mask": np.ones((3, 4, 4), np.uint8)}
    write_table(path, [chunk, chunk])
    path.write_bytes(alter(path.read_bytes()))
    with refused_or_read(str(path)):
        table = ArrowTable(path)
        table.take(range(len(table)))


@pytest.fixture(scope="session")
def packed(study: Path) -> Path:
    (folder,) = (study.parent / "artifacts").glob("data-*")
    return folder


@FUZZ
@given(alter=alterations(), name=st.sampled_from(["artifact.json", "data.json", "val.arrow"]))
def test_an_altered_pack(
    alter: Callable[[bytes], bytes], name: str, packed: Path, tmp_path: Path
) -> None:
    folder = tmp_path / packed.name
    shutil.copytree(packed, folder, dirs_exist_ok=True)
    (folder / name).write_bytes(alter((packed / name).read_bytes()))
    with refused_or_read(str(folder)):
        open_pack(folder)
    if find_damage(folder) is None:
        assert read_artifact(folder).seconds >= 0
    else:
        assert ArtifactStore(tmp_path).find("data", {}) is None


@FUZZ
@given(alter=alterations())
def test_an_altered_study_file(
    alter: Callable[[bytes], bytes], study: Path, tmp_path: Path
) -> None:
    folder = tmp_path / study.name
    folder.mkdir(exist_ok=True)
    (folder / "study.json").write_bytes(alter((study / "study.json").read_bytes()))
    with refused_or_read(str(folder)):
        read_study_file(folder)


@FUZZ
@given(alter=alterations())
def test_an_altered_journal(alter: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = tmp_path / "journal.log"
    path.unlink(missing_ok=True)
    begun = open_journal(tmp_path, "study", MIOU_AND_SIZE)
    for width in (4, 8):
        trial = begun.ask()
        trial.suggest_int("width", width, width)
        trial.set_user_attr("reason", "none")
        begun.tell(trial, [0.5, 100.0])
    path.write_bytes(alter(path.read_bytes()))
    with refused_or_read(str(path)):
        for asked in asked_trials(open_journal(tmp_path, "study", MIOU_AND_SIZE)):
            read_record(asked)
