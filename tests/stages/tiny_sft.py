"""An SFT stage on a tiny model and made-up rows, in one call."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from posttrain.core.protocols import RunContext
from posttrain.core.records import Artifact
from posttrain.data.ledger import Ledger
from posttrain.data.tokenized import TokenizedData
from posttrain.models.adapters import add_adapter
from posttrain.models.heads import find_backbone
from posttrain.models.lora_settings import LoraSettings
from posttrain.stages import sft
from posttrain.stages.sft import SftConfig, SftParts
from posttrain.training.distributed import Ranks, find_layers, shard_policy
from posttrain.training.policy import enable_checkpointing
from tests.training.tiny import ListSink, make_context, make_model, make_policy, make_samples, make_token_rows

ARTIFACT = Artifact("policy", "key", "hash", "folder")


def make_data(lengths: tuple[int, ...], seed: int = 0) -> TokenizedData:
    return TokenizedData([make_token_rows(make_samples(lengths, seed))], Ledger(), len(lengths))


TRAIN = (9, 14, 4, 22, 7, 11, 5, 17, 8, 3, 12, 6)
VALIDATION = (10, 6, 15)


def make_config(**changes: Any) -> SftConfig:
    values: dict[str, Any] = {
        "data": [{"source": "rows.jsonl"}],
        "steps": 6,
        "batch_size": 4,
        "learning_rate": 0.01,
        "dtype": "float32",
        "log_every_steps": 1,
        "checkpoint_every_steps": 100,
    }
    values |= changes
    if "adapter" in values:
        values["adapter"] = LoraSettings(**values["adapter"])
    return SftConfig.model_validate(values | {"data": [{"source": "rows.jsonl"}]})


def score_weights(model: Any) -> float:
    """A score in [-1, 1] that depends on every trained weight and rises and falls as they move."""
    return math.sin(50 * sum(float(p.detach().double().abs().mean()) for p in model.parameters() if p.requires_grad))


class Stage:
    """One start of a stage: everything is built anew, as a new process would."""

    def __init__(
        self,
        config: SftConfig,
        *,
        name: str = "llama",
        dtype: torch.dtype = torch.float32,
        ranks: Ranks = Ranks(),  # noqa: B008  # a frozen record of one process
        **changes: Any,
    ):
        self.config = config
        self.published: dict[str, torch.Tensor] = {}
        self.sink = ListSink()
        model = make_model(name, dtype=dtype, **changes)
        if config.adapter is not None:
            model = add_adapter(model, config.adapter, "sft", 3)
            for parameter in model.parameters():
                parameter.data = parameter.data.to(dtype)
        if config.activation_checkpointing == "on":
            enable_checkpointing(model)
        self.model = model
        layout: Any = "padded" if config.packing == "off" else "packed"
        validation = make_data(VALIDATION, 1) if config.validation else None
        policy = make_policy(model, layout)
        compute_dtype = torch.bfloat16 if config.dtype == "bfloat16" else torch.float32
        shard_policy(policy, find_layers(find_backbone(model)), ranks, compute_dtype=compute_dtype)
        measure = (lambda: score_weights(model)) if config.keep_metric else None
        self.parts = SftParts(policy, make_data(TRAIN), validation, ranks, "cpu", self._publish, measure)

    def _publish(self, weights: dict[str, torch.Tensor]) -> Artifact:
        self.published = {name: tensor.clone() for name, tensor in weights.items()}
        return ARTIFACT

    def run(
        self,
        folder: Path,
        should_stop: Callable[[], bool] = lambda: False,
        callback: Any = None,
        num_snapshots: int = 0,
    ) -> RunContext:
        """Run the stage; `should_stop` is asked once a step."""
        context = make_context(folder, self.sink, should_stop=should_stop)
        context.num_snapshots = num_snapshots
        if callback is not None:
            context.callbacks.append(callback)
        assert sft.run(self.config, {}, self.parts, context) == {"policy": ARTIFACT}
        return context


class StopAfter:
    """Says yes once it was asked `steps` times."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def __call__(self) -> bool:
        self.steps -= 1
        return self.steps <= 0
