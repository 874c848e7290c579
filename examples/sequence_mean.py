"""Supervised fine-tuning in which every row weighs the same, however long its answer is.

    L = mean over rows r of  - 1/n_r sum over trained tokens t of r  log pi(y_t | x, y_<t)

The built-in `sft` takes the mean over tokens instead, in which long answers weigh more. Rows are run one
by one, and nothing is saved before the end: a stage for reading, not for large models.
"""

from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch.nn.functional import cross_entropy

from posttrain.chat.rendering import SampleRequest
from posttrain.core.config import Config as BaseConfig
from posttrain.core.errors import TemplateError, TerminatedError
from posttrain.core.protocols import RunContext
from posttrain.core.records import Artifact, RenderedSample
from posttrain.core.seeds import build_numpy_generator
from posttrain.data.examples import load_examples
from posttrain.data.sources import DataSource
from posttrain.lab.source import lab_rows


class Config(BaseConfig):
    """The keys of the stage in a recipe."""

    data: list[DataSource] = Field(min_length=1)
    steps: int = Field(ge=1)
    batch_size: int = Field(8, ge=1)
    learning_rate: float = Field(1e-4, gt=0)


def run(config: Config, inputs: dict[str, Artifact], parts: Any, context: RunContext) -> dict[str, Artifact]:
    """Train the policy's full weights in fp32 and return the artifact."""
    samples = load_samples(config.data, parts.renderer)
    model = parts.policy.model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate)
    context.metrics.rewind(0)  # what an interrupted start logged
    context.progress.start("training", config.steps)
    for step in range(config.steps):
        if context.should_stop():
            raise TerminatedError("stopped as asked", cure="start the same command again: this stage begins anew")
        rows = build_numpy_generator(context.seed, "rows", step).integers(len(samples), size=config.batch_size)
        loss = torch.stack([compute_row_loss(model, samples[row], parts.device) for row in rows]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        context.metrics.log(step + 1, {"loss": loss.item(), "learning_rate": config.learning_rate})
        context.progress.advance(1, loss=loss.item())
    context.progress.finish()
    return {"policy": parts.publish(parts.policy)}


def load_samples(sources: list[DataSource], renderer: Any) -> list[RenderedSample]:
    """Return the conversations of some sources as token ids, each marked as trained on or not."""
    examples, _ = load_examples(sources, root=Path(__file__).parent, row_source=lab_rows)
    requests = [SampleRequest(e.messages, e.tools, e.first_trained) for e in examples if e.kind == "messages"]
    samples: list[RenderedSample] = []
    for found in renderer.render_samples(requests):
        if isinstance(found, TemplateError):
            raise found
        samples += found
    return samples


def compute_row_loss(model: Any, sample: RenderedSample, device: str) -> torch.Tensor:
    """Return the mean loss over one row's trained tokens, each scored from the token before it."""
    ids = torch.from_numpy(sample.ids_T).long().to(device)
    trained = torch.from_numpy(sample.is_trainable_T)[1:].to(device)
    logits = model(input_ids=ids[None]).logits[0, :-1]
    return cross_entropy(logits[trained].float(), ids[1:][trained])
