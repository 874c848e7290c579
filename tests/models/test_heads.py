"""What heads.py says of a model before it is trained."""

from __future__ import annotations

from typing import Any

import pytest

from posttrain.models.heads import depends_on_longest_row
from tests.training.tiny import make_model

_LONGROPE = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}


@pytest.mark.parametrize(
    ("rope", "depends"),
    [
        ({"rope_type": "default", "rope_theta": 1e4}, False),
        ({"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}, False),
        ({"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}, True),
        ({**_LONGROPE, "original_max_position_embeddings": 64}, True),
    ],
)
def test_positions_that_the_longest_row_decides_are_known(rope: dict[str, Any], depends: bool) -> None:
    model = make_model("llama")
    model.config.rope_parameters = rope
    assert depends_on_longest_row(model) is depends
