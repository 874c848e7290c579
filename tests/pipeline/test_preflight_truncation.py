"""Rows that are too long: refused with a length that would do, or let through with an honest ledger."""

from __future__ import annotations

import json
from typing import Any

import pytest

from posttrain.core.errors import DataError, RefusedError
from posttrain.data.ledger import Ledger
from posttrain.data.truncation import TOO_LONG
from posttrain.models.manifest import load_manifest
from posttrain.pipeline.plan import build_plan
from posttrain.pipeline.preflight.truncation import check_truncation
from posttrain.stages.sft import SftConfig
from tests.pipeline.tiny_runs import Finished, Workshop, sft


def write_rows(workshop: Workshop, *words: int) -> None:
    rows = [{"prompt": f"{n}?", "completion": "ant " * count} for n, count in enumerate(words)]
    (workshop.folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def findings(done: Finished) -> dict[str, Any]:
    return {finding["name"]: finding for finding in done.record["preflight"]}


def test_a_tenth_of_the_rows_too_long_is_refused_and_what_is_proposed_is_enough(workshop: Workshop) -> None:
    write_rows(workshop, *[2] * 9, 20)
    with pytest.raises(RefusedError, match=r"1 of 10 rows \(10\.0%\) have more than 60 tokens") as refused:
        workshop.run(sft(max_length=60))
    assert refused.value.place == "sft: truncation" and "max_affected_fraction" in refused.value.expected
    assert "rows.jsonl:10" in refused.value.found and "--override sft:truncation" in refused.value.cure
    record = json.loads((workshop.folder / "run" / "run.json").read_text())
    (figures,) = (f["figures"] for f in record["preflight"] if f["name"] == "truncation")
    assert (figures["rows"], figures["rows_in"], figures["max_length"]) == (1, 10, 60)
    assert figures["tokens_lost"] > 80 and f"max_length: {figures['proposed_max_length']}" in refused.value.cure
    done = workshop.run(sft(max_length=figures["proposed_max_length"]))
    assert done.record["stages"][0]["ledger"]["rows_trained"] == 10


def test_letting_it_through_drops_the_rows_counts_them_and_says_so_in_the_lineage(workshop: Workshop) -> None:
    write_rows(workshop, *[2] * 9, 20)
    for name in ("truncation", "sft:truncation"):
        done = workshop.run(sft(max_length=60), override=[name], into=name.replace(":", "-"))
        ledger = done.record["stages"][0]["ledger"]
        assert (ledger["rows_in"], ledger["rows_trained"], ledger["dropped"][TOO_LONG]["rows"]) == (10, 9, 1)
        assert findings(done)["truncation"]["status"] == "overridden"
        assert done.record["overrides"] == [name]
        assert load_manifest(done.artifact()).overrides == ["truncation"]
    with pytest.raises(RefusedError):
        workshop.run(sft(max_length=60), override=["sft:mask"], into="other")
    with pytest.raises(DataError, match="have more than 60 tokens"):  # a plan overrides nothing
        build_plan(done.recipe)
    allowed = workshop.run(sft(max_length=60, max_affected_fraction=1.0), into="allowed")
    assert allowed.hashes == done.hashes and load_manifest(allowed.artifact()).overrides == []


def test_no_override_helps_where_every_row_is_too_long(workshop: Workshop) -> None:
    write_rows(workshop, 20, 21)
    with pytest.raises(RefusedError, match="no row is left to train on") as refused:
        workshop.run(sft(max_length=60), override=["truncation", "mask"])
    assert refused.value.place == "sft: truncation"
    assert "set max_length: 128" in refused.value.cure and "--override" not in refused.value.cure


def test_no_limit_is_proposed_that_the_model_does_not_take(workshop: Workshop) -> None:
    """The model takes 256 tokens, and no row is shorter; the source is named."""
    write_rows(workshop, 300, 301)
    with pytest.raises(RefusedError, match=r"rows.jsonl: no row is left to train on") as refused:
        workshop.run(sft())
    assert refused.value.cure == "choose shorter rows"


@pytest.mark.parametrize("policy", ["drop", "cut_oldest_turn", "cut_completion"])
def test_a_policy_that_was_chosen_is_no_cause_to_refuse(workshop: Workshop, policy: str) -> None:
    write_rows(workshop, *[2] * 9, 20)
    done = workshop.run(sft(max_length=60, truncation=policy))
    assert findings(done)["truncation"]["status"] == "passed"


def test_the_source_of_which_most_is_lost_decides_and_validation_rows_count() -> None:
    def lose(rows: int, rows_in: int) -> Ledger:
        ledger = Ledger(rows_in=rows_in)
        for number in range(rows):
            ledger.drop(f"row {number}", TOO_LONG, kind="length", tokens=100 + number, detail="")
        return ledger

    config = SftConfig.model_validate({"data": [{"source": "a"}, {"source": "b"}], "steps": 1})
    found = check_truncation("sft", config, [lose(2, 1000), lose(1, 10)], max_length=64, context_tokens=96)
    assert found.status == "refused" and found.figures["rows_in"] == 10
    assert found.figures["tokens_lost"] == 301
    assert found.figures["proposed_max_length"] == 96  # no longer than the model takes
    assert check_truncation("sft", config, [lose(2, 1000)], max_length=64, context_tokens=96).status == "passed"
