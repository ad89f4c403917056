"""MLflow finds the files of a SQLite store that was moved or copied."""

import shutil
from pathlib import Path

from mlflow import MlflowClient

from search.tracking.mlflow_internals import repair_artifacts


def test_files_are_found_where_they_were_copied_to(tmp_path: Path) -> None:
    before, after = tmp_path / "before/mlartifacts", tmp_path / "before-2/mlartifacts"
    before.mkdir(parents=True)
    client = MlflowClient(f"sqlite:///{before.parent}/mlflow.db")
    own = client.create_experiment("own", artifact_location=before.as_uri())
    other = client.create_experiment("other", artifact_location=(tmp_path / "other").as_uri())
    runs = [client.create_run(experiment).info.run_id for experiment in (own, other)]
    for run in runs:
        client.log_text(run, "some text", "file.txt")
    assert repair_artifacts(before.parent / "mlflow.db", before) == []
    shutil.copytree(before.parent, after.parent)
    copy = MlflowClient(f"sqlite:///{after.parent}/mlflow.db")
    assert repair_artifacts(after.parent / "mlflow.db", after) == [before.as_uri()]
    for run in runs:
        (file,) = copy.list_artifacts(run)
        assert Path(copy.download_artifacts(run, file.path)).read_text() == "some text"
    assert copy.get_experiment(own).artifact_location == after.as_uri()
    assert copy.get_run(runs[0]).info.artifact_uri.startswith(after.as_uri() + "/")
    copy.log_text(copy.create_run(own).info.run_id, "more", "file.txt")
    assert len(list(before.rglob("file.txt"))) == 1


def test_paths_of_another_storage_in_the_same_database_are_left(tmp_path: Path) -> None:
    own, other = tmp_path / "own/mlartifacts", tmp_path / "other/mlartifacts"
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.create_experiment("theirs", artifact_location=other.as_uri())
    client.log_text(client.create_run(experiment).info.run_id, "text", "file.txt")
    before = (tmp_path / "gone/mlartifacts").as_uri()
    gone = client.create_experiment("moved", artifact_location=before)
    assert repair_artifacts(tmp_path / "mlflow.db", own) == [before]
    assert client.get_experiment(experiment).artifact_location == other.as_uri()
    assert client.get_experiment(gone).artifact_location == own.as_uri()
