"""The best weights by a generation metric: what is kept, what measuring leaves alone, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from posttrain.core.errors import DataError, RecipeError, RefusedError, TerminatedError
from posttrain.core.metrics import describe_metric
from posttrain.models.loading import load_policy
from posttrain.pipeline import tracked_metric
from posttrain.pipeline.development_rows import read_development_problems
from posttrain.pipeline.plan import build_plan
from posttrain.pipeline.policies import open_renderer
from posttrain.pipeline.tracked_metric import build_tracker, hash_weights_in_memory
from tests.pipeline.tiny_runs import Finished, Notes, StopInTraining, Workshop, make_base, make_rows, sft, task

SCORERS = """\
def letters(completions, **columns):
    return [float(sum(c in "abcdefghijklmnopqrstuvwxyz" for c in text)) for text in completions]


def broken(completions, **columns):
    raise OSError("no judge")
"""
BY_LETTERS = {"keep": "best_metric", "keep_metric": "held_out", "validate_every_steps": 2}
STEADY = {"schedule": "constant", "warmup_fraction": 0.0, "learning_rate": 3e-3, "steps": 24}
VALIDATION = [{"source": "held_out.jsonl"}]


@pytest.fixture
def shop(workshop: Workshop) -> Workshop:
    """A workshop with development rows and scorers."""
    make_rows(workshop.folder / "development.jsonl", 6, start=80)
    (workshop.folder / "own.py").write_text(SCORERS)
    return workshop


def by_letters(**changes: Any) -> dict[str, Any]:
    """A task that counts letters, measured on rows of its own and chosen by others."""
    values = {"scorer": "own.py:letters", "development": {"source": "development.jsonl"}, "max_new_tokens": 8}
    return task(**{**values, **changes})


def read_scores(done: Finished, key: str = "development/held_out") -> dict[int, float]:
    return {line["step"]: line[key] for line in done.lines() if key in line}


def test_what_is_kept_is_the_best_by_the_metric_where_the_loss_prefers_another(shop: Workshop) -> None:
    """Letters are few in noise, many in half-learnt babble, and few again in the short answers of the data."""
    as_chosen = by_letters(name="chosen", data={"source": "development.jsonl"})
    del as_chosen["development"]
    done = shop.run(sft(**STEADY, **BY_LETTERS, validation=VALIDATION), evaluate=[by_letters(), as_chosen])
    scores, losses = read_scores(done), read_scores(done, "validation/loss")
    assert list(scores) == list(losses) == list(range(0, 25, 2))
    best = max(scores, key=lambda step: scores[step])  # the first of equals
    assert 0 < best < 24 and min(losses, key=lambda step: losses[step]) == 24
    alone = shop.run(sft(**{**STEADY, "steps": best}), into="alone")
    assert done.hashes == alone.hashes
    # The artifact, loaded and measured on the rows that chose it, scores what was seen in training.
    (value,) = (
        m["value"]
        for m in done.record["metrics"]
        if (m["stage"], m["name"]) == ("sft", "letters") and m["task"] == "chosen"
    )
    assert value == pytest.approx(scores[best], abs=1e-9)
    assert not any(folder.exists() for folder in (done.stage().best, done.stage().checkpoints))


VARIANTS: dict[str, dict[str, Any]] = {
    "full weights": {},
    "bf16 with a moving average": {"dtype": "bfloat16", "ema_decay": 0.5},
    "LoRA with dropout": {"adapter": {"rank": 4, "dropout": 0.3}},
    "padded": {"packing": "off", "activation_checkpointing": "on"},
}


@pytest.mark.parametrize("sampler", ["engine", "the model itself"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_measuring_changes_no_bit_of_what_is_trained(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch, variant: str, sampler: str
) -> None:
    if sampler != "engine":
        from posttrain.pipeline import sampling
        from posttrain.samplers.probing import UnmanagedCacheError

        def refuse(*arguments: Any) -> None:
            raise UnmanagedCacheError("for this test")

        monkeypatch.setattr(sampling, "build_engine_model", refuse)
    changes = {**VARIANTS[variant], "steps": 6, "checkpoint_every_steps": 3}
    last = {"keep": "best_metric", "keep_metric": "held_out", "validate_every_steps": 1}
    states = []
    original = tracked_metric.MetricTracker.measure

    def measure(self: Any) -> float:
        """Later is better, so that the last weights are kept; the measurement itself is the real one."""
        before = torch.get_rng_state()
        original(self)
        assert torch.equal(before, torch.get_rng_state())
        states.append(hash_weights_in_memory(self.policy))
        return float(len(states))

    monkeypatch.setattr(tracked_metric.MetricTracker, "measure", measure)
    measured = shop.run(sft(**changes, **last), evaluate=[by_letters(temperature=1.0)], into="measured")
    plain = shop.run(sft(**changes), into="plain")
    assert len(states) == len(set(states)) == 7
    assert measured.hashes == plain.hashes
    lines = [{k: v for k, v in line.items() if k != "development/held_out"} for line in measured.lines()]
    assert [line for line in lines if len(line) > 1] == plain.lines()


@pytest.mark.invariants
@pytest.mark.parametrize("ema_decay", [None, 0.5])
def test_a_run_that_is_stopped_after_any_step_keeps_the_same_best(shop: Workshop, ema_decay: float | None) -> None:
    stage = sft(**{**STEADY, "steps": 6}, **{**BY_LETTERS, "validate_every_steps": 1}, ema_decay=ema_decay)
    whole = shop.run(stage, evaluate=[by_letters()], into="whole")
    for k in range(1, 6):
        stop = StopInTraining(k)
        with pytest.raises(TerminatedError, match=f"after step {k} of 6"):
            shop.run(stage, evaluate=[by_letters()], into=f"stopped-{k}", should_stop=stop, progress=stop)
        resumed = shop.run(stage, evaluate=[by_letters()], into=f"stopped-{k}")
        assert resumed.hashes == whole.hashes and read_scores(resumed) == read_scores(whole)


def test_the_score_is_shown_while_it_is_measured_and_has_a_declared_meaning(shop: Workshop) -> None:
    class Figures(Notes):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[Any] = []

        def advance(self, amount: int = 1, **figures: float | str) -> None:
            self.seen += [(amount, figures[name]) for name in figures if name == "held_out/stopped"]

    shown = Figures()
    stage = sft(steps=1, keep="best_metric", keep_metric="held_out/stopped", validate_every_steps=1)
    done = shop.run(stage, evaluate=[by_letters(max_new_tokens=3)], progress=shown, override=["length_caps"])
    scores = read_scores(done, "development/held_out/stopped")
    assert list(scores) == [0, 1] and shown.seen == [(0, value) for value in scores.values()]
    spec = describe_metric("development/held_out/stopped")
    assert spec is not None and spec.unit == "score" and spec.lower_is_better is False


def test_a_policy_has_another_name_after_any_trained_weight_moved(workshop: Workshop) -> None:
    policy = load_policy(workshop.folder / "base", dtype="bfloat16")
    names = {hash_weights_in_memory(policy)}
    for parameter in policy.model.parameters():
        with torch.no_grad():
            parameter.view(-1)[-1] += 1
        names.add(hash_weights_in_memory(policy))
    assert len(names) == 1 + len(list(policy.model.parameters()))


def find_key(recipe: Any) -> str:
    key = build_plan(recipe).stages[0].key
    assert key is not None
    return key


def test_a_stages_key_follows_what_chooses_its_weights_and_nothing_that_is_measured_after_it(shop: Workshop) -> None:
    stage = sft(**BY_LETTERS)

    def key(**changes: Any) -> str:
        return find_key(shop.read(stage, evaluate=[by_letters(**changes)]))

    first = key()
    make_rows(shop.folder / "others.jsonl", 4, start=60)
    assert key(data={"source": "others.jsonl"}) == first
    others = [
        key(development={"source": "others.jsonl"}),
        key(max_new_tokens=4),
        key(temperature=1.0),
        key(scorer="exact_match"),
    ]
    assert len({first, *others}) == 5
    (shop.folder / "own.py").write_text(SCORERS.replace("abc", "bc"))
    assert key() not in {first, *others}


def test_a_stage_without_the_keys_keeps_the_name_that_it_has_without_them(shop: Workshop) -> None:
    from posttrain.stages.sft import SftConfig

    config = SftConfig.model_validate({"data": [{"source": "rows.jsonl"}], "steps": 1})
    assert "keep_metric" not in config.identity() and "keep" in config.identity()
    assert find_key(shop.read(sft(), evaluate=[by_letters()])) == find_key(shop.read(sft(), evaluate=[task()]))


@pytest.mark.parametrize(
    ("metric", "tasks", "found", "cure"),
    [
        ("held_ot", [by_letters()], "'held_ot' is no task", "did you mean 'held_out'?"),
        ("held_out", [], "'held_out' is no task", "add a task 'held_out'"),
        ("held_out/stopped", [task()], "has no development rows", "development: {source"),
    ],
)
def test_a_metric_that_cannot_choose_is_refused_when_the_recipe_is_read(
    shop: Workshop, metric: str, tasks: list[Any], found: str, cure: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        shop.read(sft(**{**BY_LETTERS, "keep_metric": metric}), evaluate=tasks)
    assert found in caught.value.found and cure in caught.value.cure
    assert "keep_metric" in caught.value.place


def test_development_rows_that_are_held_out_are_refused_before_anything_is_trained(shop: Workshop) -> None:
    lines = (shop.folder / "held_out.jsonl").read_text().splitlines()
    (shop.folder / "development.jsonl").write_text(
        "\n".join([*lines[3:4], json.dumps({"prompt": "x", "answer": "y"})]) + "\n"
    )
    recipe = shop.read(sft(name="first"), sft(**BY_LETTERS), evaluate=[by_letters()])
    with pytest.raises(DataError, match=r"1 of 2 development rows .* development.jsonl:1, which is held_out.jsonl:4"):
        build_plan(recipe)


def test_a_part_that_no_outcome_has_stops_the_stage_before_its_first_step(shop: Workshop) -> None:
    stage = sft(**{**BY_LETTERS, "keep_metric": "held_out/stoped"})
    with pytest.raises(RecipeError, match="no outcome of letters has the part 'stoped'") as caught:
        shop.run(stage, evaluate=[by_letters()])
    assert "did you mean 'stopped'?" in caught.value.cure
    (line_of_start,) = shop.folder.glob("run/stages/01-sft/metrics.jsonl")
    assert line_of_start.read_text() == ""


def test_a_harness_that_fails_is_no_score(shop: Workshop) -> None:
    broken = by_letters(scorer="own.py:broken")
    recipe = shop.read(sft(**BY_LETTERS), evaluate=[broken])
    tracked = tracked_metric.find_tracked_metric(recipe, recipe.stages[0].config)  # type: ignore[arg-type]  # an SftConfig
    assert tracked is not None
    base = shop.folder / "base"
    with open_renderer(recipe, base) as renderer:
        tracker = build_tracker(recipe, tracked, load_policy(base, dtype="float32"), renderer, Notes())
        with pytest.raises(RefusedError, match="the harness failed on 6 of 6"):
            tracker.measure()


def test_the_lab_has_development_rows_of_its_own(tmp_path: Path) -> None:
    shop = Workshop(tmp_path / "shop", make_base(tmp_path / "tiny"))
    lab = {"name": "facts", "data": {"source": "lab:facts", "split": "held_out", "rows": 20}, "scorer": "lab"}
    recipe = shop.read(sft(**{**BY_LETTERS, "keep_metric": "facts"}), evaluate=[{**lab, "max_new_tokens": 4}])
    tracked = tracked_metric.find_tracked_metric(recipe, recipe.stages[0].config)  # type: ignore[arg-type]  # an SftConfig
    assert tracked is not None and tracked.source.split == "development"
    problems = read_development_problems(recipe.roots, tracked.task)
    assert len(problems) == 20 and len({problem.problem_id for problem in problems}) == 20


def test_a_task_of_several_samples_is_tracked_by_pass_at_k(shop: Workshop) -> None:
    """Of two samples at least one is right where either is: pass@2 is at least the mean, which pass@1 is."""
    several = by_letters(temperature=1.0, num_samples=2, max_new_tokens=2)
    scores = {}
    for part in ("pass@1", "pass@2"):
        kept = {**BY_LETTERS, "keep_metric": f"held_out/{part}"}
        done = shop.run(sft(**{**STEADY, "steps": 4}, **kept), evaluate=[several], into=part, override=["length_caps"])
        scores[part] = read_scores(done, f"development/held_out/{part}")
    assert list(scores["pass@1"]) == list(scores["pass@2"]) == [0, 2, 4]
    assert scores["pass@1"] != scores["pass@2"]
    assert all(low <= high for low, high in zip(scores["pass@1"].values(), scores["pass@2"].values(), strict=True))


@pytest.mark.parametrize("kind", ["choice", "perplexity"])
def test_a_task_in_which_nothing_is_generated_cannot_choose(shop: Workshop, kind: str) -> None:
    weighed = {"name": "held_out", "type": kind, "data": {"source": "held_out.jsonl"}}
    with pytest.raises(RecipeError, match="nothing is generated in it") as caught:
        shop.read(sft(**BY_LETTERS), evaluate=[{**weighed, "development": {"source": "development.jsonl"}}])
    assert "best_validation_loss" in caught.value.cure
