"""The Multi-Process Service on the nodes of Ray, with a stand-in for NVIDIA's program."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from drivers import wait_until
from mps_program import REFUSING, SERVICE, install

SEARCH = """
import json, sys
from search.execution.environment import prepare_environment

prepare_environment()
import ray
from search.execution.mps_services import MpsServices

ray.init("local", num_cpus=1, num_gpus=1, include_dashboard=False, log_to_driver=False)
said = []
services = MpsServices(said.append)
services.start_on(["L4"])
known = [len(services.actors)]
for _ in range(2):
    services.start_on([""], wait=True)
    known.append(len(services.actors))
ray.shutdown()
print(json.dumps([known, said]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("program", [SERVICE, REFUSING])
def test_each_node_with_gpus_of_a_kind_has_a_service_as_long_as_ray_runs(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = install(program, tmp_path, monkeypatch)
    ran = subprocess.run(
        [sys.executable, "-c", SEARCH], check=True, timeout=300, capture_output=True, text=True
    )
    known, said = json.loads(ran.stdout)
    assert known == [0, 1, 1]
    if program == SERVICE:
        assert said == []
        wait_until(lambda: log.read_text().endswith("quit -t 10\n"))
        assert log.read_text().count("begins") == 1
    else:
        (line,) = said
        assert line.startswith("warning: no Multi-Process Service (MPS) on ")
        assert line.endswith(": an error: no rights")
