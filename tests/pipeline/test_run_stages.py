"""Several stages and rounds in one run: what each starts from, adapters across stages, and stages of no steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from posttrain.core.errors import DataError, ModelError, RefusedError
from posttrain.models.loading import load_policy
from posttrain.models.manifest import load_manifest
from posttrain.pipeline import stage_jobs
from posttrain.pipeline.stage_jobs import StageJob, check_key
from tests.models.tiny_models import logits_of
from tests.pipeline.test_run import check_record
from tests.pipeline.tiny_runs import Finished, Workshop, make_rows, sft, task

LORA = {"rank": 4, "targets": "all-linear"}


def logits(folder: Path) -> torch.Tensor:
    return logits_of(load_policy(folder, dtype="float32").model)


def parents(done: Finished) -> dict[str, str]:
    """What each artifact was made from, by the labels of the stages."""
    names = {artifact["hash"]: artifact["stage"] for artifact in done.record["artifacts"]}
    return {a["stage"]: ", ".join(names[p] for p in a["parents"]) for a in done.record["artifacts"]}


def test_each_round_of_a_repeated_stage_starts_from_the_round_before_with_other_rows_first(workshop: Workshop) -> None:
    done = workshop.run(sft(repeat=2), sft(name="last"), evaluate=[task()])
    check_record(done.record)
    assert [(stage["name"], stage["round"]) for stage in done.record["stages"]] == [("sft", 1), ("sft", 2), ("last", 1)]
    assert parents(done) == {"base": "", "sft": "base", "sft (round 2)": "sft", "last": "sft (round 2)"}
    assert len(set(done.hashes)) == 3
    assert [path.name for path in sorted(done.folder.stages.iterdir())] == ["01-sft", "02-sft-round-2", "03-last"]
    assert done.lines(0)[0]["num_tokens"] != done.lines(1)[0]["num_tokens"]
    assert [m["stage"] for m in done.record["metrics"][::2]] == ["base", "sft", "sft (round 2)", "last"]
    page = done.folder.report.read_text()
    for index, label in enumerate(["sft", "sft (round 2)", "last"]):  # every round's rows and items are in the report
        assert done.items("held_out", label).is_file()
        assert done.hashes[index][:12] in page

    longer = workshop.run(sft(repeat=3), evaluate=[task()])
    assert longer.statuses == ["cached", "cached", "finished"]


def test_stages_start_from_the_one_before_or_from_the_one_they_name(workshop: Workshop) -> None:
    done = workshop.run(
        sft(), sft(name="other", **{"from": "base"}), sft(name="third", **{"from": "sft"}), sft(name="fourth")
    )
    assert parents(done) == {"base": "", "sft": "base", "other": "base", "third": "sft", "fourth": "third"}
    # A name is part of the seed: two stages of the same configuration see their rows in another order.
    assert done.hashes[0] != done.hashes[1]
    alone = workshop.run(sft(name="other"), into="alone")
    assert alone.hashes == [done.hashes[1]]


def test_reading_and_then_answering_runs_as_two_stages_of_other_modes(workshop: Workshop) -> None:
    text = "\n".join(json.dumps({"text": f"the ant met the bee {n} times, the end. " * 9}) for n in range(6)) + "\n"
    (workshop.folder / "documents.jsonl").write_text(text)
    read = sft(name="read", mode="full_text", data=[{"source": "documents.jsonl"}], max_length=64)
    done = workshop.run(read, sft(), evaluate=[task()])
    check_record(done.record)
    first, second = (stage["ledger"] for stage in done.record["stages"])
    assert first["tokens_in"] == first["tokens_kept"] and first["samples"] > first["rows_trained"] == 6
    assert first["tokens_trained"] > 0.9 * first["tokens_in"]
    assert second["tokens_trained"] < 0.5 * second["tokens_in"]
    assert parents(done) == {"base": "", "read": "base", "sft": "read"}


@pytest.mark.parametrize("adapter", [None, LORA])
def test_a_stage_of_no_steps_passes_the_policy_on(workshop: Workshop, adapter: Any) -> None:
    start = {"adapter": adapter, "adapter_start": adapter and "continue"}
    done = workshop.run(sft(**start), sft(name="idle", steps=0, **start), evaluate=[task()])
    base, trained, idle = workshop.folder / "base", done.artifact(0), done.artifact(1)
    assert (logits(trained) - logits(base)).abs().max() > 0.01
    assert torch.equal(logits(idle), logits(trained))
    assert done.hashes[0] == done.hashes[1] or load_manifest(idle).parents == [done.hashes[0]]
    before, after = ([m for m in done.record["metrics"] if m["stage"] == label] for label in ("sft", "idle"))
    assert [{**m, "stage": ""} for m in before] == [{**m, "stage": ""} for m in after]


@pytest.mark.parametrize("start", ["continue", "stack", "merge"])
def test_an_adapter_is_continued_stacked_or_merged_and_starts_at_its_parents_logits(
    workshop: Workshop, start: str
) -> None:
    first = sft(adapter=LORA, adapter_start="new")
    again = sft(name="more", adapter=LORA, adapter_start=start)
    idle = workshop.run(first, {**again, "steps": 0}, into="idle")
    done = workshop.run(first, again)
    assert idle.hashes[0] == done.hashes[0]
    names = load_manifest(done.artifact(1)).adapters
    assert names == {"continue": ["00-sft"], "stack": ["00-sft", "01-more"], "merge": ["00-more"]}[start]
    assert torch.allclose(logits(idle.artifact(1)), logits(idle.artifact(0)), atol=1e-5)
    assert (logits(done.artifact(1)) - logits(done.artifact(0))).abs().max() > 1e-3
    base = load_file(workshop.folder / "base" / "model.safetensors")
    kept = load_file(done.artifact(1) / "base" / "model.safetensors")
    assert all(torch.equal(base[name], kept[name]) for name in base) == (start != "merge")
    if start == "stack":  # what lies below a trained adapter is as it was
        below = [load_file(done.artifact(i) / "adapters/00-sft/adapter_model.safetensors") for i in (0, 1)]
        assert all(torch.equal(below[0][name], below[1][name]) for name in below[0])
        assert torch.count_nonzero(next(t for n, t in below[0].items() if "lora_B" in n)) > 0


def test_full_weights_after_an_adapter_are_trained_from_the_merged_policy(workshop: Workshop) -> None:
    first = sft(adapter=LORA, adapter_start="new")
    idle = workshop.run(first, sft(name="full", adapter_start="merge", steps=0))
    assert load_manifest(idle.artifact(1)).adapters == []
    assert torch.allclose(logits(idle.artifact(1)), logits(idle.artifact(0)), atol=1e-5)
    done = workshop.run(first, sft(name="full", adapter_start="merge"))
    assert (logits(done.artifact(1)) - logits(done.artifact(0))).abs().max() > 0.01


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"adapter": LORA}, "continue, stack or merge"),
        ({"adapter": LORA, "adapter_start": "new"}, "has adapters"),
        ({}, "continue, stack or merge"),
        ({"adapter": {"rank": 2}, "adapter_start": "continue"}, "rank 2"),
    ],
)
def test_what_to_do_with_adapters_is_never_guessed(workshop: Workshop, changes: dict[str, Any], word: str) -> None:
    with pytest.raises((RefusedError, ModelError), match=word):
        workshop.run(sft(adapter=LORA, adapter_start="new", steps=1), sft(name="more", **changes))


def test_continuing_an_adapter_that_is_not_there_is_refused(workshop: Workshop) -> None:
    with pytest.raises(RefusedError, match="has no adapter"):
        workshop.run(sft(adapter_start="continue"))
    done = workshop.run(sft(adapter=LORA, adapter_start="continue", repeat=2))
    assert [load_manifest(done.artifact(i)).adapters for i in (0, 1)] == [["00-sft"], ["00-sft"]]


def test_an_artifact_is_a_base_for_another_run_with_its_own_hash(workshop: Workshop) -> None:
    first = workshop.run(sft(adapter=LORA, adapter_start="new"))
    second = workshop.run(
        sft(adapter=LORA, adapter_start="stack"),
        into="second",
        model=str(first.artifact().relative_to(workshop.folder)),
        evaluate=[task()],
    )
    check_record(second.record)
    assert second.record["artifacts"][0]["hash"] == first.hashes[0]
    assert load_manifest(second.artifact()).parents == first.hashes
    assert load_manifest(second.artifact()).adapters == ["00-sft", "01-sft"]


def test_items_are_drawn_again_in_another_precision_chat_format_or_context_and_kept_apart(workshop: Workshop) -> None:
    def drawn(**changes: Any) -> tuple[bytes, int]:
        stage = changes.pop("stage", sft(steps=0))
        done = workshop.run(stage, evaluate=[task()], **changes)
        path = done.items("held_out", "base")
        return path.read_bytes(), len(list(path.parent.glob("*.jsonl")))

    first, kept = drawn()
    assert kept == 1
    (workshop.folder / "own.jinja").write_text(
        "{% for m in messages %}{{ m.role }}> {{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}"
        "\n{% endfor %}{% if add_generation_prompt %}assistant> {% endif %}"
    )
    other, kept = drawn(chat={"template": "own.jinja"})
    assert other != first and kept == 2
    _, kept = drawn(stage=sft(steps=0, dtype="bfloat16"))
    assert kept == 3
    again, kept = drawn()
    assert again == first and kept == 3


def test_rows_that_change_after_the_stages_key_was_computed_are_not_trained_on(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change_and_check(job: StageJob) -> None:
        make_rows(workshop.folder / "rows.jsonl", 11)
        check_key(job)

    monkeypatch.setattr(stage_jobs, "check_key", change_and_check)
    with pytest.raises(DataError, match="changed after the stage was begun"):
        workshop.run(sft())
    monkeypatch.undo()
    assert workshop.run(sft()).record["stages"][0]["ledger"]["rows_in"] == 11
