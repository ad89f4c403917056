"""Expensive things, made once and shared by all trials, nodes and later studies."""

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

from filelock import FileLock

from trainables.frozen import digest

RECORD = "artifact.json"


@dataclass(frozen=True)
class Artifact:
    """A finished artifact: its folder, what determines it, and the seconds it took to build."""

    path: Path
    key: Mapping[str, object]
    seconds: float


@dataclass(frozen=True)
class ArtifactStore:
    """A folder of artifacts, each named by the digest of all that determines its content."""

    root: Path

    def get(self, kind: str, key: Mapping[str, object], build: Callable[[Path], None]) -> Artifact:
        """The artifact of `key`, which `build` fills into an empty folder at first use.

        Several processes may ask at once: one builds, the others wait for it. A build that fails or
        is killed leaves no artifact behind.
        """
        path = self.root / f"{kind}-{digest(key)}"
        if not (path / RECORD).is_file():
            self.root.mkdir(parents=True, exist_ok=True)
            with FileLock(self.root / f".{path.name}.lock"):
                if not (path / RECORD).is_file():
                    self._build(path, key, build)
        record = json.loads((path / RECORD).read_text())
        return Artifact(path, record["key"], record["seconds"])

    def _build(self, path: Path, key: Mapping[str, object], build: Callable[[Path], None]) -> None:
        aside = Path(mkdtemp(prefix=f".{path.name}-", dir=self.root))
        try:
            start = time.perf_counter()
            build(aside)
            record = {"key": key, "seconds": time.perf_counter() - start}
            (aside / RECORD).write_text(json.dumps(record, indent=1))
            aside.chmod(0o755)
            os.replace(aside, path)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
