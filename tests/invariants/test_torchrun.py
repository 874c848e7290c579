"""torchrun itself starts the ranks, as a user would."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from posttrain.training.distributed import Ranks
from tests.training.rank_jobs import take_steps

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.invariants
def test_two_ranks_under_torchrun_take_the_steps_of_one_process(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, "-m", "tests.invariants.under_torchrun", str(out)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    shared, alone = json.loads(out.read_text()), take_steps(Ranks(), num_steps=2)
    assert shared["count"] == 2
    assert np.allclose(shared["reports"], alone["reports"], atol=1e-6, rtol=1e-5)
    for name, weights in shared["weights"].items():
        assert np.abs(np.array(weights) - alone["weights"][name].ravel()).max() < 1e-5, name
