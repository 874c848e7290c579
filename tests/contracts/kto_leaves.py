"""For every key of a KTO stage: a value to change it to, and what can then be seen to be different."""

from __future__ import annotations

from tests.contracts.recipe_baselines import LORA
from tests.contracts.trials import (
    Leaf,
    own,
    see_callbacks,
    see_ledger,
    see_lines,
    see_plan,
    see_policy,
    see_refusal,
    see_start,
)

KTO_LEAVES: dict[str, Leaf] = {
    "KtoConfig.loss": own("loss", "bco", see_policy, "kto"),
    "KtoConfig.data": own("data", [{"source": "compared.jsonl"}], see_policy, "kto"),
    "KtoConfig.validation": own("validation", [{"source": "compared.jsonl"}], see_lines, "kto"),
    "KtoConfig.pairs": own("pairs", "refuse", see_refusal, "kto_pairs"),
    "KtoConfig.max_length": own("max_length", 30, see_ledger, "kto_long"),
    "KtoConfig.truncation": own("truncation", "cut_oldest_turn", see_ledger, "kto_long"),
    "KtoConfig.max_affected_fraction": own("max_affected_fraction", 0.0, see_start, "kto_refused"),
    "KtoConfig.beta": own("beta", 2.0, see_policy, "kto"),
    "KtoConfig.desirable_weight": own("desirable_weight", 3.0, see_policy, "kto"),
    "KtoConfig.undesirable_weight": own("undesirable_weight", 3.0, see_policy, "kto"),
    "KtoConfig.shift_decay": own("shift_decay", 0.1, see_policy, "bco"),
    "KtoConfig.epochs": own("epochs", 2.0, see_plan, "kto_epochs"),
    "KtoConfig.steps": own("steps", 2, see_plan, "kto"),
    "KtoConfig.batch_size": own("batch_size", 5, see_policy, "kto"),
    "KtoConfig.validate_every_steps": own("validate_every_steps", 1, see_lines, "kto_validated"),
    "KtoConfig.keep": own("keep", "best_validation_loss", see_policy, "kto_validated"),
    "KtoConfig.logps_drop": own("logps_drop", None, see_lines, "kto_falling"),
    "KtoConfig.on_alarm": own("on_alarm", "stop", see_start, "kto_alarmed"),
    "KtoConfig.micro_batch_tokens": own("micro_batch_tokens", 1, see_policy, "kto"),
    "KtoConfig.learning_rate": own("learning_rate", 2e-2, see_plan, "kto"),
    "KtoConfig.schedule": own("schedule", "constant", see_plan, "kto"),
    "KtoConfig.warmup_fraction": own("warmup_fraction", 0.6, see_plan, "kto"),
    "KtoConfig.final_learning_rate_fraction": own("final_learning_rate_fraction", 0.5, see_plan, "kto"),
    "KtoConfig.weight_decay": own("weight_decay", 0.5, see_policy, "kto"),
    "KtoConfig.beta1": own("beta1", 0.5, see_policy, "kto"),
    "KtoConfig.beta2": own("beta2", 0.5, see_policy, "kto"),
    "KtoConfig.epsilon": own("epsilon", 0.1, see_policy, "kto"),
    "KtoConfig.max_grad_norm": own("max_grad_norm", 1e-3, see_policy, "kto"),
    "KtoConfig.adapter": own("adapter", LORA, see_policy, "kto"),
    "KtoConfig.adapter_start": Leaf("kto_adapted", "stages.1.adapter_start", "stack", see_policy),
    "KtoConfig.dtype": own("dtype", "bfloat16", see_policy, "kto"),
    "KtoConfig.packing": own("packing", "off", see_policy, "kto"),
    "KtoConfig.checkpoint_every_steps": own("checkpoint_every_steps", 3, see_callbacks, "kto_saved"),
    "KtoConfig.log_every_steps": own("log_every_steps", 3, see_lines, "kto"),
    "KtoConfig.callbacks": own("callbacks", ["own.py:Watch"], see_callbacks, "kto"),
}
KTO_WITHOUT_EFFECT = {
    "KtoConfig.type": "says which class reads the stage: within the class it has one value",
    "KtoConfig.activation_checkpointing": "changes memory alone: tests/pipeline/test_kto.py trains with it",
}
