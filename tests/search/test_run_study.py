"""How a study ends that cannot go on."""

import errno
import json
import math
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from factories import make_config

from search.check import violations
from search.study import Study, run_study
from search.study_file import STUDY_FILE
from trainables.config import RunConfig


def test_a_study_comes_to_rest_before_it_reports(
    blocks_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = Study(make_config(tmp_path, blocks_folder, samples=2), resumed=False)

    def fill_the_disk(*given: Any) -> None:
        run = RunConfig(data=study.data.path, artifacts=study.store.root)
        searcher = study.searcher(run, [], lambda: False, lambda: math.inf)
        for trial_id in ("a", "b"):
            assert isinstance(searcher.suggest(trial_id), dict)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("search.study.search", fill_the_disk)
    with pytest.raises(OSError, match="No space left"):
        run_study(study)
    rows = pq.read_table(study.config.folder / "trials.parquet").to_pylist()
    assert [row["state"] for row in rows] == ["PAUSED", "PAUSED"]
    assert list(violations(study.file, study.config.folder)) == []


def test_a_study_of_an_earlier_release_goes_on(blocks_folder: Path, tmp_path: Path) -> None:
    config = make_config(tmp_path, blocks_folder)
    begun = Study(config, resumed=False)
    path = config.folder / STUDY_FILE
    content = json.loads(path.read_text())
    content["versions"]["paretoseg"] = "0.0.9"
    del content["teacher_digest"]  # which did not exist then
    path.write_text(json.dumps(content))
    begun.lock.release()
    resumed = Study(config, resumed=True)
    assert resumed.file == begun.file
    assert resumed.known is not None
    assert resumed.known.versions["paretoseg"] == "0.0.9"
