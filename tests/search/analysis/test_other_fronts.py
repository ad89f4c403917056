"""The fronts of other studies in a storage."""

from pathlib import Path

from factories import make_config
from front_factories import CLASSES, record

from search.analysis.other_fronts import OtherFront, read_other_fronts
from search.analysis.tables import write_tables
from search.storage.study_file import StudyFile, write_study_file


def make_study(storage: Path, name: str, data_digest: str = "d", **changes: object) -> StudyFile:
    config = make_config(storage, storage / "data", name=name)
    file = StudyFile(
        id=name, config=config, versions={}, data_digest=data_digest, class_names=CLASSES
    ).replace(**changes)
    config.folder.mkdir(parents=True)
    write_study_file(file)
    write_tables([record("0000", 0.5, 1000), record("0001", 0.6, 2000)], config.folder, CLASSES)
    return file


def test_fronts_of_the_same_data_are_read(tmp_path: Path) -> None:
    own = make_study(tmp_path, "own")
    make_study(tmp_path, "same")
    make_study(tmp_path, "elsewhere", "another digest")
    make_study(tmp_path, "otherwise", label_size="own")
    (make_study(tmp_path, "unfinished").config.folder / "front.parquet").unlink()
    (make_study(tmp_path, "damaged").config.folder / "front.parquet").write_text("damaged")
    (make_study(tmp_path, "broken").config.folder / "study.json").write_text("{")
    found = read_other_fronts(own)
    assert found == [OtherFront("same", [(1000, 0.5), (2000, 0.6)])]
