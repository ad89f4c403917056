"""MLflow finds the files of a SQLite store that was moved."""

import shutil
from pathlib import Path

from mlflow import MlflowClient

from search.tracking.mlflow_internals import move_artifacts


def test_files_are_found_where_they_were_moved_to(tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    own = client.create_experiment("own", artifact_location=before.as_uri())
    other = client.create_experiment("other", artifact_location=(tmp_path / "other").as_uri())
    runs = [client.create_run(experiment).info.run_id for experiment in (own, other)]
    for run in runs:
        client.log_text(run, "some text", "file.txt")
    shutil.move(before, after)
    move_artifacts(tmp_path / "mlflow.db", before.as_uri(), after.as_uri())
    for run in runs:
        (file,) = client.list_artifacts(run)
        assert Path(client.download_artifacts(run, file.path)).read_text() == "some text"
    assert client.get_experiment(own).artifact_location == after.as_uri()
    client.log_text(client.create_run(own).info.run_id, "more", "file.txt")
    assert not before.exists()
