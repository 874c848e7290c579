"""The user's own code in a run: a stage, callbacks, scorers; what they raise is named as theirs."""

from __future__ import annotations

import json

import pytest
import torch

from posttrain.core.errors import RecipeError, RefusedError
from posttrain.models.loading import load_policy
from posttrain.models.manifest import load_manifest
from posttrain.pipeline.plan import build_plan
from tests.models.tiny_models import logits_of
from tests.pipeline.test_run import check_record
from tests.pipeline.tiny_runs import Workshop, make_rows, sft, task

STAGE = """\
import json
from pathlib import Path

import torch
from pydantic import Field

from posttrain.core.config import Config as Base


class Config(Base):
    strength: float = Field(1.0, ge=0)
    data: list[dict] = []


def tilt(config, inputs, parts, context):
    context.metrics.log(1, {"strength": config.strength})
    generator = torch.Generator().manual_seed(context.seed % 2**32)
    with torch.no_grad():
        for parameter in parts.policy.model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * config.strength)
    return {"policy": parts.publish(parts.policy)}
"""


def write(workshop: Workshop, source: str, name: str = "own.py") -> None:
    (workshop.folder / name).write_text(source)


def test_a_stage_of_the_users_own_is_run_cached_and_followed_by_others(workshop: Workshop) -> None:
    write(workshop, STAGE)
    tilt = {"name": "tilt", "type": "own.py:tilt", "strength": 0.1}
    done = workshop.run(tilt, sft(), evaluate=[task()])
    check_record(done.record)
    assert done.statuses == ["finished", "finished"]
    assert done.lines() == [{"step": 1, "strength": 0.1}]
    manifest = load_manifest(done.artifact(0))
    assert manifest.config["strength"] == 0.1 and manifest.parents == [done.record["artifacts"][0]["hash"]]
    moved = logits_of(load_policy(done.artifact(0), dtype="float32").model)
    assert (moved - logits_of(load_policy(workshop.folder / "base", dtype="float32").model)).abs().max() > 0.1
    assert workshop.run(tilt, sft(), evaluate=[task()]).statuses == ["cached", "cached"]
    assert [stage.status for stage in build_plan(done.recipe).stages] == ["cached", "cached"]

    write(workshop, STAGE + "# another version\n")
    assert workshop.run(tilt, sft()).statuses == ["finished", "cached"]  # the same bits come out of it
    assert workshop.run({**tilt, "strength": 0.05}, sft()).statuses == ["finished", "finished"]


def test_the_rows_that_a_users_stage_names_belong_to_its_key(workshop: Workshop) -> None:
    write(workshop, STAGE)
    tilt = {"name": "tilt", "type": "own.py:tilt", "data": [{"source": "rows.jsonl"}]}
    assert workshop.run(tilt).statuses == ["finished"]
    assert workshop.run(tilt).statuses == ["cached"]
    make_rows(workshop.folder / "rows.jsonl", 11)
    assert workshop.run(tilt).statuses == ["finished"]


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ("raise ValueError('too tilted')", "own.py:tilt raised ValueError: too tilted"),
        ("raise SystemExit(0)", "raised SystemExit"),
        ("return None", "expected: a dictionary with the artifact"),
        ("return {'policy': 'nothing'}", "expected: a dictionary with the artifact"),
    ],
)
def test_a_users_stage_that_fails_is_named_with_its_line_and_is_no_bug_of_ours(
    workshop: Workshop, body: str, word: str
) -> None:
    write(workshop, STAGE.replace("context.metrics.log(1, ", f"{body}\n    print(").replace("})\n", "})\n", 1))
    with pytest.raises(RecipeError, match=word) as caught:
        workshop.run({"name": "tilt", "type": "own.py:tilt"})
    assert "raise" not in body or "see line 16 of" in caught.value.cure
    assert json.loads((workshop.folder / "run" / "run.json").read_text())["status"] == "failed"


CALLBACK = """\
from pathlib import Path

SEEN = Path(__file__).with_name("seen.txt")


class Watch:
    def on_step(self, step, metrics, policy):
        with SEEN.open("a") as file:
            file.write(f"step {step} {sorted(metrics)} {sum(1 for _ in policy.parameters())}\\n")

    def on_save(self, step, folder):
        with SEEN.open("a") as file:
            file.write(f"save {step} {(folder / 'manifest.json').is_file()}\\n")


class OnlySteps:
    on_step = Watch.on_step
"""


def test_callbacks_see_every_step_and_every_checkpoint_and_may_have_one_method(workshop: Workshop) -> None:
    write(workshop, CALLBACK)
    workshop.run(sft(callbacks=["own.py:Watch"]))
    lines = (workshop.folder / "seen.txt").read_text().splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["step", "1"], ["step", "2"], ["save", "2"], ["step", "3"], ["step", "4"], ["save", "4"],
    ]  # fmt: skip
    assert "'grad_norm', 'learning_rate', 'loss'" in lines[0] and lines[2].endswith("True")
    (workshop.folder / "seen.txt").unlink()
    assert workshop.run(sft(callbacks=["own.py:OnlySteps"])).statuses == ["finished"]
    assert len((workshop.folder / "seen.txt").read_text().splitlines()) == 4


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ("class Watch:\n    def on_step(self, *a):\n        1 / 0\n", "own.py:Watch raised ZeroDivisionError"),
        ("class Watch:\n    def __init__(self):\n        1 / 0\n", "own.py:Watch raised ZeroDivisionError"),
        ("class Watch:\n    def on_save(self, *a):\n        raise SystemExit(0)\n", "raised SystemExit"),
        ("class Watch:\n    pass\n", "neither on_step nor on_save"),
    ],
)
def test_a_callback_that_fails_is_named_and_is_no_bug_of_ours(workshop: Workshop, source: str, word: str) -> None:
    write(workshop, source)
    with pytest.raises(RecipeError, match=word):
        workshop.run(sft(callbacks=["own.py:Watch"]))
    write(workshop, "class Watch:\n    on_step = print\n")
    mended = workshop.run(sft(callbacks=["own.py:Watch"]))
    assert mended.statuses == ["finished"]


SCORERS = """\
from posttrain.core.records import Outcome


def length(prompts, completions, completion_ids, answer, level, **columns):
    assert [len(part) for part in (prompts, completions, completion_ids)] == [len(answer)] * 3
    return [len(ids) + (level[i] or 0) / 2 for i, ids in enumerate(completion_ids)]


async def later(prompts, completions, completion_ids, answer, **columns):
    return [float(text == wanted) for text, wanted in zip(completions, answer)]


class Judge:
    name = "judged"

    def score(self, items):
        return [Outcome("scored", float(len(problem.columns["answer"]))) for problem, _ in items]


def broken(completions, answer, **columns):
    raise KeyError("answr")


class Broken:
    def score(self, items):
        raise KeyError("answr")
"""


def test_scorers_of_the_users_own_are_functions_coroutines_or_objects(workshop: Workshop) -> None:
    write(workshop, SCORERS)
    tasks = [task(name=name.lower(), scorer=f"own.py:{name}") for name in ("length", "later", "Judge")]
    judged = ["evaluate.judge:scorer"]  # it looks at the row alone, whatever the completion
    done = workshop.run(evaluate=tasks, override=judged)
    check_record(done.record)
    found = {(m["stage"], m["task"], m["name"]): m["value"] for m in done.record["metrics"]}
    assert found["sft", "judge", "judged"] == pytest.approx((3 + 3 + 3 + 3 + 3) / 5)
    assert found["sft", "later", "later"] == 0
    items = [json.loads(line) for line in done.items("length", "sft").read_text().splitlines()]
    assert [item["outcome"]["value"] % 1 for item in items] == [0, 0.5, 0, 0.5, 0]  # the rows' own column
    write(workshop, SCORERS.replace("/ 2 for", "/ 4 for"))
    again = workshop.run(evaluate=tasks, override=judged)  # another version of the scorer: no old score is reused
    assert again.statuses == ["cached"]
    items = [json.loads(line) for line in again.items("length", "sft").read_text().splitlines()]
    assert [item["outcome"]["value"] % 1 for item in items] == [0, 0.25, 0, 0.25, 0]


@pytest.mark.parametrize("name", ["broken", "Broken"])
def test_a_scorer_that_raises_is_a_fault_of_the_harness_and_stops_the_run(workshop: Workshop, name: str) -> None:
    write(workshop, SCORERS)
    with pytest.raises(RefusedError, match=f"failed on 5 of 5 .*: {name} raised KeyError"):
        workshop.run(evaluate=[task(scorer=f"own.py:{name}")])
    record = json.loads((workshop.folder / "run" / "run.json").read_text())
    assert record["status"] == "refused" and record["metrics"] == []
    write(workshop, SCORERS.replace('raise KeyError("answr")', "return [float(len(text)) for text in completions]"))
    assert workshop.run(evaluate=[task(scorer="own.py:broken")]).statuses == ["finished"]


def test_what_is_no_scorer_is_refused(workshop: Workshop) -> None:
    write(workshop, "number = 3\n")
    with pytest.raises(RecipeError, match=r"own\.py:number is 3"):
        workshop.run(evaluate=[task(scorer="own.py:number")])


def test_a_users_stage_may_train_an_adapter_in_the_loaded_policy(workshop: Workshop) -> None:
    source = STAGE.replace(
        "    context.metrics.log",
        "    from posttrain.models.adapters import prepare_policy\n"
        "    from posttrain.models.lora_settings import LoraSettings\n"
        "    policy = prepare_policy(\n"
        "        parts.policy, LoraSettings(rank=2), existing='stack', name='tilt', seed=context.seed)\n"
        "    return {'policy': parts.publish(policy)}\n"
        "    context.metrics.log",
    )
    write(workshop, source)
    done = workshop.run({"name": "tilt", "type": "own.py:tilt"})
    assert load_manifest(done.artifact()).adapters == ["00-tilt"]
    before = logits_of(load_policy(workshop.folder / "base", dtype="float32").model)
    assert torch.equal(logits_of(load_policy(done.artifact(), dtype="float32").model), before)
