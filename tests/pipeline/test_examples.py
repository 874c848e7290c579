"""The examples are carried out as they stand: a stage, a callback and a scorer of a user's own."""

from __future__ import annotations

import importlib.util
import json
import math
import re
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from posttrain.core.errors import RefusedError
from posttrain.core.records import RenderedSample
from posttrain.models.manifest import find_differences
from posttrain.pipeline.recipe import read_recipe
from posttrain.pipeline.run import run_recipe
from posttrain.statistics.paired import sign_test
from tests.conftest import REPOSITORY

EXAMPLES = REPOSITORY / "examples"
NOT_ALWAYS = {"best", "gates", "snapshots", "superseded", "traceback.txt"}


def load(name: str) -> ModuleType:
    """Import an example by its file."""
    spec = importlib.util.spec_from_file_location(f"posttrain_plugin_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read_documented_files() -> list[str]:
    """Return the paths that docs/training.md lists in a run folder."""
    text = (REPOSITORY / "docs" / "training.md").read_text(encoding="utf-8")
    (listing,) = re.findall(r"^    runs/<name>/\n((?:      .*\n)+)", text, re.MULTILINE)
    found, stage = [], ""
    for line in listing.splitlines():
        name = line.split()[0]
        if name.startswith("stages/"):
            stage = name
        elif name.startswith("artifacts/"):
            found.append("artifacts/keys")
        elif "<" in name:
            found.append(name.split("/")[0])
        else:
            found.append(f"{stage}{name}" if line.startswith("        ") else name)
    return [path for path in found if path.rstrip("/").split("/")[-1] not in NOT_ALWAYS]


@pytest.mark.invariants
def test_the_example_recipe_runs_as_it_stands_and_leaves_what_the_documents_list(tmp_path: Path) -> None:
    folder = run_recipe(read_recipe(EXAMPLES / "own_parts.yaml", folder=tmp_path / "run"))
    record = json.loads((folder / "run.json").read_text())
    assert [stage["status"] for stage in record["stages"]] == ["finished", "finished"]
    assert [m["name"] for m in record["metrics"] if m["name"] != "stop_rate"] == ["contains_answer"] * 3
    assert (folder / "stages" / "01-sft" / "saved.txt").read_text().startswith("10 ")
    lines = [json.loads(line) for line in (folder / "stages" / "02-even" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 31))
    losses = [line["loss"] for line in lines]
    assert sum(losses[-10:]) < sum(losses[:10])
    assert find_differences(folder / "artifacts" / record["stages"][1]["outputs"]["policy"]) == []
    documented = read_documented_files()
    assert len(documented) >= 11
    assert [path for path in documented if not (folder / path).exists()] == []


@pytest.mark.invariants
def test_the_example_callback_refuses_a_loss_that_runs_away(tmp_path: Path) -> None:
    recipe = read_recipe(EXAMPLES / "own_parts.yaml", ["sft.learning_rate=5", "evaluate=[]"], folder=tmp_path / "run")
    with pytest.raises(RefusedError, match="it had been"):
        run_recipe(recipe)
    guard = load("loss_guard").LossGuard()
    for step, loss in enumerate((2.0, 5.9, 1.0)):
        guard.on_step(step, {"loss": loss}, None)
    with pytest.raises(RefusedError, match="after step 3; it had been 1"):
        guard.on_step(3, {"loss": 3.1}, None)


def test_the_example_scorer_finds_the_answer_and_has_no_verdict_without_one() -> None:
    score = load("contains_answer").contains_answer
    assert score([], ["it is 42.", "no idea", "x"], [], answer=[42, "42", None], level=[1, 1, 1]) == [1.0, 0.0, None]


def test_the_example_stage_takes_the_mean_over_a_rows_trained_tokens() -> None:
    """Two tokens are trained on; the model gives them probabilities 1/2 and 1/4 whatever came before."""
    logits = torch.log(torch.tensor([0.25, 0.5, 0.25])).repeat(1, 4, 1)
    sample = RenderedSample(
        np.array([0, 0, 1, 2], np.int32), np.zeros(4, np.uint8), np.array([False, False, True, True])
    )
    loss = load("sequence_mean").compute_row_loss(lambda input_ids: SimpleNamespace(logits=logits), sample, "cpu")
    assert loss.item() == pytest.approx((math.log(2) + math.log(4)) / 2, rel=1e-6)


@pytest.fixture
def small_grpo(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The teaching script of GRPO with a few short rows of everything."""
    script = load("grpo_from_scratch")
    for name, value in (("NUM_DEMONSTRATIONS", 16), ("QUESTIONS_PER_STEP", 2), ("MAX_NEW_TOKENS", 6)):
        monkeypatch.setattr(script, name, value)
    return script


def test_the_teaching_script_can_be_read_in_ten_minutes() -> None:
    assert len((EXAMPLES / "grpo_from_scratch.py").read_text(encoding="utf-8").splitlines()) <= 300


def test_the_teaching_script_takes_the_same_steps_for_the_same_seed(
    small_grpo: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rewarded by the share of spaces, so that there is something to tell apart after 16 demonstrations."""
    monkeypatch.setattr(small_grpo, "verify", lambda question, text, is_ended: text.count(" ") / 8)
    monkeypatch.setattr(small_grpo, "describe", str)
    models: list[torch.nn.Module] = []
    load_base = small_grpo.load_base

    def keep() -> tuple[torch.nn.Module, object]:
        model, tokenizer = load_base()
        models.append(model)
        return model, tokenizer

    monkeypatch.setattr(small_grpo, "load_base", keep)
    first, again, none = (small_grpo.main(steps, 3, 5) for steps in (1, 1, 0))
    assert first == again and len(first[0]) == 1 and len(first[1]) == len(first[2]) == 3 and none[0] == []
    one, two, untrained = (torch.cat([p.detach().flatten() for p in model.parameters()]) for model in models)
    assert torch.equal(one, two) and not torch.equal(one, untrained)


def test_the_teaching_script_draws_from_what_it_trains_whatever_the_padding(small_grpo: ModuleType) -> None:
    """The log-probs of a short prompt's completion are the same beside a longer one, padded, and alone."""
    model, tokenizer = small_grpo.load_base()
    questions = [
        SimpleNamespace(prompt=prompt, right=SimpleNamespace(answer="3"))
        for prompt in ("1 + 2 =", "What is the difference of 812 and 799, and who said so?")
    ]
    rows, _ = small_grpo.draw_and_verify(model, tokenizer, questions, 2, torch.Generator().manual_seed(3))
    assert rows["is_prompt_SP"].sum(1).tolist()[0] < rows["prompts_SP"].shape[1]
    together = small_grpo.compute_logprobs(model, **rows)
    num_prompt, num_drawn = int(rows["is_prompt_SP"][0].sum()), int(rows["is_drawn_ST"][0].sum())
    alone = small_grpo.compute_logprobs(
        model,
        rows["prompts_SP"][:1, -num_prompt:],
        rows["is_prompt_SP"][:1, -num_prompt:],
        rows["completions_ST"][:1, :num_drawn],
        rows["is_drawn_ST"][:1, :num_drawn],
    )
    assert torch.allclose(together[:1, :num_drawn], alone, atol=1e-5)


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        ("7 + 8 = 15. 4 + 3 + 1 = 8.\nAnswer: 85", 1.0),
        ("Answer: 85", 1.0),
        ("Answer: 84", 0.0),
        ("85", 0.0),
        ("Answer: 85\nAnswer: 84", 0.0),
        ("Answer: 84\nAnswer: 85", 0.0),
        ("I say Answer: 85", 0.0),
        ("Answer: 85\nI hope this helps.", 0.0),
        ("", 0.0),
    ],
)
def test_the_teaching_scripts_verifier_takes_the_right_answer_in_the_last_line_alone(text: str, reward: float) -> None:
    question = SimpleNamespace(right=SimpleNamespace(answer="85"))
    assert load("grpo_from_scratch").verify(question, text, is_ended=True) == reward
    assert load("grpo_from_scratch").verify(question, text, is_ended=False) == 0.0


@pytest.mark.invariants
def test_the_teaching_script_makes_the_policy_better_on_questions_that_it_has_not_seen() -> None:
    """Paired on the same held-out questions; a difference by chance would have to be of one in ten thousand."""
    script = load("grpo_from_scratch")
    rewards, before, after = script.main(12, 120, 17)
    better = sum(one < other for one, other in zip(before, after, strict=True))
    worse = sum(one > other for one, other in zip(before, after, strict=True))
    assert sign_test(better, worse, alternative="greater").p_value < 1e-4
    assert sum(rewards[-4:]) > sum(rewards[:4])
