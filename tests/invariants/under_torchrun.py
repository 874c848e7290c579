"""What torchrun starts in `test_torchrun.py`: the steps of `tests.training.rank_jobs`, written by the first rank."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from posttrain.training.distributed import join_ranks
from tests.training.rank_jobs import take_steps

torch.set_num_threads(1)
ranks = join_ranks()
result = take_steps(ranks, num_steps=2)
if ranks.is_writer:
    weights = {name: array.ravel().tolist() for name, array in result["weights"].items()}
    text = json.dumps({"count": ranks.count, "reports": result["reports"], "weights": weights})
    Path(sys.argv[1]).write_text(text, encoding="utf-8")
torch.distributed.destroy_process_group()
