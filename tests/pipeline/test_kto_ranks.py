"""Several ranks train on the labelled rows of a step what one process would, against one reference point."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.kto_runs import labelled, make_labelled_workshop
from tests.pipeline.test_preference_ranks import PROPORTIONAL, run
from tests.pipeline.tiny_runs import Workshop, recipe_values

pytestmark = pytest.mark.invariants

VALIDATED = {"validation": [{"source": "held_labelled.jsonl"}], "validate_every_steps": 2}


@pytest.fixture
def workshop(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    monkeypatch.chdir(tmp_path)
    return make_labelled_workshop(tmp_path, tiny_base)


@pytest.mark.parametrize(
    ("count", "changes"),
    [
        (2, {}),
        (4, {"batch_size": 5, **VALIDATED}),
        (2, {"loss": "bco", **VALIDATED}),
        (2, {"batch_size": 1}),
        (2, {"loss": "bco", "batch_size": 3, "packing": "off", "micro_batch_tokens": 100}),
    ],
    ids=str,
)
def test_ranks_take_the_steps_of_one_process(workshop: Workshop, count: int, changes: dict[str, Any]) -> None:
    values = recipe_values(labelled(**{**PROPORTIONAL, **changes}))
    ours, theirs = run(workshop, values, count, "shared"), run(workshop, values, 1, "alone")
    assert ours[0].keys() == theirs[0].keys()
    assert max(float((ours[0][name] - theirs[0][name]).abs().max()) for name in ours[0]) < 1e-6
    for line, other in zip(ours[1], theirs[1], strict=True):
        assert line.keys() == other.keys()
        for key in line:
            assert line[key] == pytest.approx(other[key], abs=2e-5, rel=1e-4), key
