"""Predicted costs of a study's space."""

from pathlib import Path

from factories import make_config

from search.study.cost_model import CostModel
from trainables.config import TrialConfig
from trainables.core.artifacts import ArtifactStore


def test_each_seed_draws_its_own_configurations(tmp_path: Path) -> None:
    def drawn(seed: int) -> list[TrialConfig]:
        config = make_config(tmp_path, "shapes", space="qat", seed=seed)
        return CostModel(config, 5, (32, 32), ArtifactStore(tmp_path)).sampled_configs()

    assert drawn(1) == drawn(1)
    assert len(drawn(1)) == len(drawn(2))
    assert drawn(1) != drawn(2)
