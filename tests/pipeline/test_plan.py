"""A plan says beforehand what a run does, in numbers that can be checked by hand, and does none of it."""

from __future__ import annotations

import hashlib
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from posttrain.core.errors import DataError, RecipeError
from posttrain.data.mixing import RowOrder
from posttrain.models.loading import load_model
from posttrain.pipeline import stage_costs
from posttrain.pipeline.plan import PlannedStage, build_plan
from posttrain.pipeline.stage_costs import count_tokens
from tests.pipeline.tiny_runs import Workshop, make_rows, sft, task


def only(workshop: Workshop, **changes: object) -> PlannedStage:
    """The plan of a recipe of one stage."""
    (stage,) = build_plan(workshop.read(sft(**changes))).stages
    return stage


def listing(folder: Path) -> dict[str, str]:
    """Every file below a folder, and its digest."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_steps_follow_from_rows_epochs_and_batch_size(workshop: Workshop) -> None:
    """10 rows in batches of 3 are 4 steps an epoch: 1.5 epochs are 6; steps count as given."""
    assert only(workshop, steps=None, epochs=1).steps == 4
    assert only(workshop, steps=None, epochs=1.5).steps == 6
    assert only(workshop, steps=None, epochs=1.51).steps == 7
    assert only(workshop, steps=None, epochs=1, batch_size=10).steps == 1
    assert only(workshop, steps=5).steps == 5


def test_learning_rates_are_those_of_the_first_middle_and_last_step(workshop: Workshop) -> None:
    """Peak 1, 10 steps, warm-up 0.2: steps 0 and 1 warm up (0.5, 1), the other 8 fall from the peak.

    Step 5 has gone 3 of 8 and step 9, the last, 7 of 8: linear 5/8 and 1/8; cosine (1 + cos(3 pi / 8)) / 2
    and (1 + cos(7 pi / 8)) / 2; where a tenth is to be left, 0.1 + 0.9 of those.
    """
    settings = {"steps": 10, "learning_rate": 1.0, "warmup_fraction": 0.2}
    middle, last = ((1 + math.cos(gone * math.pi / 8)) / 2 for gone in (3, 7))
    for schedule, final, expected in (
        ("constant", 0.0, [0.5, 1.0, 1.0]),
        ("linear", 0.0, [0.5, 5 / 8, 1 / 8]),
        ("linear", 0.1, [0.5, 0.1 + 0.9 * 5 / 8, 0.1 + 0.9 / 8]),
        ("cosine", 0.1, [0.5, 0.1 + 0.9 * middle, 0.1 + 0.9 * last]),
    ):
        stage = only(workshop, schedule=schedule, final_learning_rate_fraction=final, **settings)
        assert stage.learning_rates == pytest.approx(expected)
    assert only(workshop, steps=0).learning_rates == []


def test_learning_rates_and_tokens_of_the_plan_are_those_that_the_run_logs(workshop: Workshop) -> None:
    recipe = workshop.read(sft(steps=5))
    (stage,) = build_plan(recipe).stages
    done = workshop.run(sft(steps=5))
    assert stage.learning_rates is not None
    rates = [line["learning_rate"] for line in done.lines()]
    assert [rates[0], rates[2], rates[4]] == pytest.approx(stage.learning_rates)
    assert stage.tokens == done.record["stages"][0]["tokens"] == done.lines()[-1]["num_tokens"]


def test_tokens_are_counted_row_by_row_also_where_the_last_batch_is_small_and_sources_are_mixed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rows of 1 to 5 and of 10, 20: an epoch in batches of 4 has 2 steps (4 and 3 rows) and 45 tokens."""
    lengths = [np.array([1, 2, 3, 4, 5]), np.array([10, 20])]
    order = RowOrder([5, 2], None, 7, 4)
    assert count_tokens(order, lengths, 2) == 45
    assert count_tokens(order, lengths, 6) == 135
    first = sum(int(lengths[source][row]) for source, row in order.rows_of_step(0))
    assert count_tokens(order, lengths, 1) == first and count_tokens(order, lengths, 3) == 45 + sum(
        int(lengths[source][row]) for source, row in order.rows_of_step(2)
    )
    assert count_tokens(order, lengths, 0) == 0
    monkeypatch.setattr(stage_costs, "_ROWS_COUNTED", 8)  # what comes after is counted in proportion
    assert count_tokens(order, lengths, 2000) == 45_000


def test_memory_counts_weights_masters_moments_and_gradients_by_hand(workshop: Workshop) -> None:
    """P parameters: fp32 weights 4 P and two moments 8 P; in bf16 2 P, a master and moments 12 P; EMA 4 P more.

    What the process holds already and the activations are the same in the compared plans.
    """
    count = sum(p.numel() for p in load_model(workshop.folder / "base", dtype="float32").parameters())

    def memory(**changes: object) -> int:
        found = only(workshop, batch_size=1, steps=1, **changes).memory_bytes
        assert found is not None
        return found

    slack = 3_000_000  # the process itself grows between two estimates
    plain = memory()
    assert abs(memory(ema_decay=0.9) - plain - 4 * count) < slack
    assert plain > 12 * count
    rows = make_rows(workshop.folder / "long.jsonl", 1)
    rows.write_text(rows.read_text().replace("0?", "0" * 200 + "?"))
    assert memory(data=[{"source": "long.jsonl"}]) > plain + 100_000


def test_a_stage_is_cached_or_runs_and_the_plan_says_why(workshop: Workshop) -> None:
    stages = (sft(), sft(name="more", repeat=2))

    def told() -> list[tuple[str, int, str, str]]:
        return [(s.name, s.round, s.status, s.why) for s in build_plan(workshop.read(*stages)).stages]

    assert told() == [
        ("sft", 1, "run", "no artifact has its key yet"),
        ("more", 1, "run", "'sft' runs before it"),
        ("more", 2, "run", "'more' runs before it"),
    ]
    workshop.run(sft())
    assert [status for _, _, status, _ in told()] == ["cached", "run", "run"]
    assert told()[1][3] == "no artifact has its key yet"
    done = workshop.run(*stages)
    assert [why for *_, why in told()] == [f"artifact {name[:12]} has this key" for name in done.hashes]
    keys = [stage.key for stage in build_plan(done.recipe).stages]
    assert keys == [stage["key"] for stage in done.record["stages"]]
    assert {stage.seconds for stage in build_plan(done.recipe).stages} == {0.0}
    (done.artifact(1) / "model.safetensors").write_bytes(b"")
    assert told()[1:] == [
        ("more", 1, "run", "its artifact is damaged or gone"),
        ("more", 2, "run", "'more' runs before it"),
    ]


def test_a_plan_writes_nothing_but_the_cache_and_a_run_uses_it(workshop: Workshop) -> None:
    recipe = workshop.read(sft(), evaluate=[task()])
    before = listing(workshop.folder)
    first = build_plan(recipe)
    written = set(listing(workshop.folder)) - set(before)
    assert written and {name.split("/")[2] for name in written} == {"tokens", "contamination"}
    assert before.items() <= listing(workshop.folder).items()

    done = workshop.run(sft(), evaluate=[task()])
    before = listing(workshop.folder)
    second = build_plan(recipe)
    assert listing(workshop.folder) == before
    assert (first.plan_hash, first.recipe_hash) == (second.plan_hash, second.recipe_hash)
    assert (first.plan_hash, first.recipe_hash) == (done.record["plan_hash"], done.record["recipe_hash"])
    assert first.base_hash == done.record["artifacts"][0]["hash"]


def test_a_plan_imports_no_plug_in_of_any_kind(workshop: Workshop) -> None:
    before = {name for name in sys.modules if "posttrain_plugin" in name}
    source = "from posttrain.core.config import Config\nraise RuntimeError('imported')\n"
    (workshop.folder / "own.py").write_text(source + "stage = callback = scorer = 1\n")
    recipe = workshop.read(
        sft(callbacks=["own.py:callback"]),
        {"name": "tilt", "type": "own.py:stage", "repeat": 2},
        evaluate=[task(scorer="own.py:scorer")],
    )
    stages = build_plan(recipe).stages
    assert [(s.name, s.type, s.steps) for s in stages] == [
        ("sft", "sft", 4), ("tilt", "own.py:stage", None), ("tilt", "own.py:stage", None),
    ]  # fmt: skip
    assert {name for name in sys.modules if "posttrain_plugin" in name} == before
    with pytest.raises(RecipeError, match="imported"):
        workshop.run(
            sft(callbacks=["own.py:callback"]),
            {"name": "tilt", "type": "own.py:stage"},
            evaluate=[task(scorer="own.py:scorer")],
        )


def test_a_plan_refuses_what_would_stop_the_run_before_its_first_step(workshop: Workshop) -> None:
    for changes, kind, word in (
        ({"data": [{"source": "missing.jsonl"}]}, DataError, "missing"),
        ({"max_length": 100_000}, RecipeError, "context of 256"),
        ({"max_length": 4}, DataError, "4 tokens|max_length"),
    ):
        with pytest.raises(kind, match=word):
            build_plan(workshop.read(sft(**changes)))
