"""For every key of a reward-model stage: a value to change it to, and what can then be seen to be different."""

from __future__ import annotations

from typing import Any

from posttrain.stages.reward_model import RewardModelConfig
from tests.contracts.trials import Leaf, Trial, own, see_callbacks, see_ledger, see_lines, see_plan, see_refusal
from tests.pipeline.reward_runs import find_artifact, read_facts, read_report

_LORA = {"rank": 4}


def see_model(trial: Trial) -> Any:
    """The name by content of the reward model."""
    return find_artifact(trial.run()).name


def see_second_model(trial: Trial) -> Any:
    """The name by content of the second stage's reward model."""
    return find_artifact(trial.run(), 1).name


def see_facts(trial: Trial) -> Any:
    """What the reward model's numbers mean."""
    facts = read_facts(trial.run())
    return facts["outputs"], len(facts["offsets"]), facts["separator"]


def see_report(trial: Trial) -> Any:
    """What validation says of the reward model, by the names of what it says, and the length's."""
    report = read_report(trial.run())
    return sorted(report), report["length"]


def see_warnings(trial: Trial) -> Any:
    """What the stage warned of."""
    return read_report(trial.run())["warnings"]


def _rm(name: str, value: Any, see: Any = see_model, baseline: str = "rm") -> Leaf:
    return own(name, value, see, baseline)


REWARD_LEAVES: dict[str, Leaf] = {
    f"{RewardModelConfig.__name__}.{name}": leaf
    for name, leaf in {
        "learns": Leaf("rm_steps", "stages.0.learns", "pairwise", see_refusal),
        "data": _rm("data", [{"source": "judged_pairs_held_out.jsonl"}]),
        "validation": _rm("validation", [{"source": "judged_pairs.jsonl"}], see_lines),
        "max_length": _rm("max_length", None, see_ledger, "rm_long"),
        "truncation": Leaf("rm_long", "stages.0.truncation", "refuse", see_refusal),
        "max_affected_fraction": Leaf("rm_refusing", "stages.0.max_affected_fraction", 0.5, see_refusal),
        "margin": _rm("margin", "margin"),
        "centring": _rm("centring", 0.1),
        "attributes": _rm("attributes", ["help", "harm"], see_facts, "rm_rated"),
        "separator": _rm("separator", "; ", see_facts, "rm_steps"),
        "quality": _rm("quality", ["true_chosen", "true_rejected"], see_report),
        "max_length_correlation": _rm("max_length_correlation", 1.0, see_warnings, "rm_length"),
        "probability": _rm("probability", "chance", see_report),
        "members": _rm("members", 2, see_facts),
        "resample": _rm("resample", True, see_model, "rm_members"),
        "epochs": _rm("epochs", 2.0, see_plan, "rm_epochs"),
        "steps": _rm("steps", 2, see_plan),
        "batch_size": _rm("batch_size", 4),
        "micro_batch_tokens": _rm("micro_batch_tokens", 60),
        "learning_rate": _rm("learning_rate", 2e-2, see_plan),
        "schedule": _rm("schedule", "linear", see_plan),
        "warmup_fraction": _rm("warmup_fraction", 0.6, see_plan),
        "final_learning_rate_fraction": _rm("final_learning_rate_fraction", 0.5, see_plan),
        "weight_decay": _rm("weight_decay", 0.5),
        "beta1": _rm("beta1", 0.5),
        "beta2": _rm("beta2", 0.5),
        "epsilon": _rm("epsilon", 0.1),
        "max_grad_norm": _rm("max_grad_norm", 1e-3),
        "adapter": _rm("adapter", _LORA),
        "adapter_start": Leaf("rm_adapted", "stages.1.adapter_start", "stack", see_second_model),
        "dtype": _rm("dtype", "bfloat16"),
        "packing": _rm("packing", "off"),
        "validate_every_steps": _rm("validate_every_steps", 2, see_lines),
        "checkpoint_every_steps": _rm("checkpoint_every_steps", 4, see_callbacks, "rm_saved"),
        "log_every_steps": _rm("log_every_steps", 3, see_lines),
        "callbacks": _rm("callbacks", ["own.py:Watch"], see_callbacks),
    }.items()
}
REWARD_WITHOUT_EFFECT = {
    "RewardModelConfig.type": "says which class reads the stage: within the class it has one value",
    "RewardModelConfig.activation_checkpointing": "changes memory alone: tests/pipeline/test_reward_model.py looks",
}
