"""Memory before anything is trained: refused with settings that do fit, and nothing is loaded after that."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from posttrain.core.errors import RefusedError
from posttrain.pipeline import estimates
from posttrain.pipeline.preflight import step_zero
from posttrain.pipeline.preflight.memory import check_memory, find_trained_adapter
from posttrain.pipeline.step_works import build_sft_work
from posttrain.pipeline.wiring import StageData
from posttrain.stages.sft import SftConfig
from posttrain.training.distributed import Ranks
from tests.pipeline.test_estimates import make_stage_data
from tests.pipeline.tiny_runs import Workshop, sft

LORA = {"rank": 4}


def config(**changes: Any) -> SftConfig:
    return SftConfig.model_validate({"data": [{"source": "rows"}], "steps": 1, "dtype": "float32", **changes})


def judge(base: Path, data: StageData, **changes: Any) -> Any:
    return check_memory(
        "sft",
        base,
        config(**changes),
        lambda changed: build_sft_work(changed, data, Ranks(), 1),
        Ranks(),
        longest=100,
    )


def needed(base: Path, data: StageData, **changes: Any) -> int:
    found = judge(base, data, **changes)
    return int(found.figures["needed_bytes"])


@pytest.fixture
def data() -> StageData:
    """Rows of 100 tokens."""
    return make_stage_data((100,) * 64)


def let_be_free(monkeypatch: pytest.MonkeyPatch, num_bytes: float) -> None:
    monkeypatch.setattr(estimates, "find_free_memory", lambda: int(num_bytes))


def test_a_step_that_fits_passes_with_its_figures(tiny_base: Path, data: StageData) -> None:
    found = judge(tiny_base, data)
    assert found.status == "passed" and 0 < found.figures["needed_bytes"] < found.figures["free_bytes"]


def test_a_smaller_budget_that_fits_is_proposed_and_the_largest_of_those(
    tiny_base: Path, data: StageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = {"micro_batch_tokens": 6400, "activation_checkpointing": "off"}
    quarter = needed(tiny_base, data, **{**kept, "micro_batch_tokens": 1600})
    assert quarter < needed(tiny_base, data, **{**kept, "micro_batch_tokens": 3200})
    let_be_free(monkeypatch, quarter / estimates.MEMORY_SHARE + 1000)
    found = judge(tiny_base, data, **kept)
    assert found.status == "refused" and "set micro_batch_tokens: 1600 (" in found.cure
    assert judge(tiny_base, data, **{**kept, "micro_batch_tokens": 1600}).status == "passed"


def test_activation_checkpointing_is_tried_before_a_stage_is_refused(
    tiny_base: Path, data: StageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    off, on = (needed(tiny_base, data, activation_checkpointing=setting) for setting in ("off", "on"))
    assert on < off
    let_be_free(monkeypatch, on / estimates.MEMORY_SHARE + 1000)
    assert judge(tiny_base, data).status == "passed"  # auto
    found = judge(tiny_base, data, activation_checkpointing="off")
    assert found.status == "refused" and "set activation_checkpointing: auto" in found.cure


def test_where_no_setting_is_enough_the_cure_says_so(
    tiny_base: Path, data: StageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_be_free(monkeypatch, 1e6)
    found = judge(tiny_base, data)
    assert found.status == "refused" and "a smaller model" in found.cure and "85%" in found.expected


def test_a_run_is_refused_before_the_policy_is_loaded_and_can_be_let_through(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []
    real = step_zero.measure_step_zero
    monkeypatch.setattr(step_zero, "measure_step_zero", lambda *given: loaded.append(given[3]) or real(*given))
    let_be_free(monkeypatch, 50e6)
    with pytest.raises(RefusedError, match=r"a step needs about .* and 50 MB are free") as refused:
        workshop.run()
    assert refused.value.place == "sft: memory" and loaded == []
    record = json.loads((workshop.folder / "run" / "run.json").read_text())
    statuses = {finding["name"]: finding["status"] for finding in record["preflight"]}
    assert statuses == {"truncation": "passed", "mask": "passed", "memory": "refused", "step_zero": "skipped"}
    done = workshop.run(override=["sft:memory"])
    assert done.statuses == ["finished"] and loaded == ["sft"]
    statuses = {finding["name"]: finding["status"] for finding in done.record["preflight"]}
    assert (statuses["memory"], statuses["step_zero"]) == ("overridden", "passed")


def test_the_adapter_that_a_later_stage_goes_on_with_is_that_of_the_stage_that_began_it(workshop: Workshop) -> None:
    first = sft(name="first", adapter=LORA)
    recipe = workshop.read(
        first,
        sft(name="second", adapter_start="continue"),
        sft(name="third", adapter_start="continue"),
        sft(name="whole", adapter_start="merge"),
    )
    found = {entry.name: find_trained_adapter(recipe, entry) for entry in recipe.stages}
    assert found["first"] is not None and found["first"].rank == 4
    assert found["second"] == found["third"] == found["first"] and found["whole"] is None
    done = workshop.run(first, sft(name="second", adapter_start="continue"))
    sizes = {f["stage"]: f["figures"]["optimizer_bytes"] for f in done.record["preflight"] if f["name"] == "memory"}
    assert sizes["first"] == sizes["second"] and re.fullmatch(r"\d+", str(sizes["first"]))
