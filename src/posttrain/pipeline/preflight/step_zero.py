"""The policy before its first step, on a few real rows: run row by row, and run as training runs it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from posttrain.core.records import RenderedSample, TokenRows
from posttrain.core.run_folder import ARTIFACT_MANIFEST
from posttrain.core.seeds import build_numpy_generator
from posttrain.models.adapters import list_adapters
from posttrain.models.heads import find_head
from posttrain.models.loading import load_policy
from posttrain.models.logprobs import compute_logprobs
from posttrain.objectives.sft import compute_sft_loss
from posttrain.pipeline.preflight.findings import Figure, Finding
from posttrain.pipeline.preflight.identities import SFT_IDENTITIES, IdentityCheck, StepZero, is_suspicious
from posttrain.pipeline.preflight.override_names import STEP_ZERO
from posttrain.pipeline.preflight.rounds import holds_adapters
from posttrain.pipeline.sft_wiring import build_scored_policy, load_trained_policy
from posttrain.pipeline.wiring import StageData
from posttrain.stages.sft import SftConfig, group_rows
from posttrain.training.batches import build_micro_batch
from posttrain.training.distributed import Ranks, find_device
from posttrain.training.policy import ScoredPolicy

MAX_ROWS = 16
_LEAST_TOKENS, _MOST_TOKENS = 256, 4096
_FLOPS = 1e12  # of one pass over the rows: some seconds on two cores


# many parameters: where the policy comes from and what it is run on
def check_step_zero(
    stage: str,
    folder: Path,
    config: SftConfig,
    data: StageData,
    *,
    name: str,
    seed: int,
    identities: Sequence[IdentityCheck] = SFT_IDENTITIES,
) -> Finding:
    """Return whether a stage's policy, before its first step, keeps every identity.

    Args:
        stage: The stage's label.
        folder: The policy that it starts from.
        config: Its configuration.
        data: Its rows.
        name: Its name, which its adapter bears.
        seed: Its seed.
        identities: What must hold.

    Raises:
        ModelError: The policy cannot be loaded.
        RefusedError: `packing: on` for a model in which packed rows are not isolated.
    """
    measured = measure_step_zero(folder, config, data, name, seed)
    results = [result for check in identities if (result := check(measured)) is not None]
    figures: dict[str, Figure] = {key: value for result in results for key, value in result.figures.items()}
    broken = [result for result in results if not result.holds]
    if not broken:
        found = f"{len(results)} identities hold on {len(measured.plain_N):,} tokens, in {measured.dtype}"
        return Finding(stage, STEP_ZERO, "passed", found, figures=figures)
    found, expected, cure = ("; ".join(getattr(x, part) for x in broken) for part in ("found", "expected", "cure"))
    return Finding(stage, STEP_ZERO, "refused", found, expected, cure, figures)


def measure_step_zero(folder: Path, config: SftConfig, data: StageData, name: str, seed: int) -> StepZero:
    """Return a policy's log-probs of a few rows, each way; only one copy of it is in memory at a time."""
    device = find_device()
    parent_N: npt.NDArray[np.float64] | None = None
    if holds_adapters(folder) or config.adapter is not None:
        parent = load_policy(folder, dtype=config.dtype, device=device).model
        parent_N = _score_alone(parent, choose_first_rows(data.train.rows, _count_tokens(parent)))
        _free_memory(parent)
        del parent
    trained = load_trained_policy(folder, config, name, seed, Ranks(), device)
    # Adapters add next to nothing to a model's size: both ways see the same rows.
    rows = choose_first_rows(data.train.rows, _count_tokens(trained.model))
    plain_N = _score_alone(trained.model, rows)
    is_trained_N = np.concatenate([row.is_trainable_T[1:] for row in rows])
    start = (config.adapter_start or "new") if list_adapters(trained.model) else config.adapter_start or ""
    vocabulary = find_head(trained.model).weight.shape[0]
    if not np.isfinite(plain_N).all():  # nothing that is built of it could be told from itself
        return StepZero(config.dtype, vocabulary, plain_N, plain_N, is_trained_N, parent_N, start)
    is_artifact = (folder / ARTIFACT_MANIFEST).exists()
    shuffled_N = None
    if not is_artifact and is_suspicious(_average(plain_N, is_trained_N), vocabulary):
        shuffled_N = _score_alone(trained.model, shuffle_tokens(rows, seed))
    # What is computed again in a backward pass changes no forward pass.
    kept = config.model_copy(update={"activation_checkpointing": "off"})
    scored, _ = build_scored_policy(trained, kept, data, Ranks(), seed)
    training_N = _score_as_trained(scored, rows, config.micro_batch_tokens, device)
    _free_memory(scored)
    return StepZero(
        config.dtype, vocabulary, plain_N, training_N, is_trained_N, parent_N, start, shuffled_N, is_artifact
    )


def choose_first_rows(parts: Sequence[TokenRows], max_tokens: int) -> list[RenderedSample]:
    """Return the first rows of each source in turn, at most `MAX_ROWS` and about `max_tokens`, long ones cut.

    A long row keeps the part in which it is first trained on.
    """
    longest = max(2, max_tokens // 2)
    rows: list[RenderedSample] = []
    tokens = 0
    for index in range(max((len(part) for part in parts), default=0)):
        for part in parts:
            if index < len(part) and len(rows) < MAX_ROWS and tokens < max_tokens:
                rows.append(_cut(part.row(index), longest))
                tokens += len(rows[-1].ids_T)
        if len(rows) >= MAX_ROWS or tokens >= max_tokens:
            break
    return rows


def shuffle_tokens(rows: Sequence[RenderedSample], seed: int) -> list[RenderedSample]:
    """Return rows of the same lengths, over which the tokens of all of them are dealt in random order."""
    ids = np.concatenate([row.ids_T for row in rows])
    dealt = build_numpy_generator("preflight", seed, "shuffled tokens").permutation(ids)
    parts = np.split(dealt, np.cumsum([len(row.ids_T) for row in rows])[:-1])
    return [RenderedSample(part, row.sources_T, row.is_trainable_T) for part, row in zip(parts, rows, strict=True)]


def _average(logprobs_N: npt.NDArray[np.float64], is_trained_N: npt.NDArray[np.bool_]) -> float:
    """Return the loss: the mean over trained tokens, 0 without any."""
    return -float(logprobs_N[is_trained_N].mean()) if is_trained_N.any() else 0.0


def _cut(row: RenderedSample, longest: int) -> RenderedSample:
    if len(row.ids_T) <= longest:
        return row
    first = int(row.is_trainable_T.argmax())
    start = min(max(0, first - longest // 2), len(row.ids_T) - longest)
    part = slice(start, start + longest)
    return RenderedSample(row.ids_T[part], row.sources_T[part], row.is_trainable_T[part])


def _count_tokens(model: Any) -> int:
    """Return how many tokens a pass may take, by the size of the model without its adapters."""
    return int(min(_MOST_TOKENS, max(_LEAST_TOKENS, _FLOPS / (2 * _count_parameters(model)))))


def _count_parameters(model: Any) -> int:
    return sum(parameter.numel() for name, parameter in model.named_parameters() if ".lora_" not in name)


def _score_alone(model: Any, rows: Sequence[RenderedSample]) -> npt.NDArray[np.float64]:
    """Return the log-probs of every token but the first of each row, one row at a time, by the model's own layers."""
    scores = compute_logprobs(model, [row.ids_T[:1] for row in rows], [row.ids_T[1:] for row in rows], layout="single")
    return np.concatenate([score.logprobs_T for score in scores]).astype(np.float64)


def _score_as_trained(
    policy: ScoredPolicy, rows: Sequence[RenderedSample], micro_batch_tokens: int, device: str
) -> npt.NDArray[np.float64]:
    """Return the same log-probs by a training step's forward pass; without dropout, which has no identity to keep."""
    found: list[npt.NDArray[np.float64]] = [np.empty(0)] * len(rows)
    policy.eval()
    for group in group_rows([len(row.ids_T) for row in rows], micro_batch_tokens, policy.layout):
        samples = [
            RenderedSample(row.ids_T, row.sources_T, np.ones(len(row.ids_T), bool)) for row in _take(rows, group)
        ]
        batch = build_micro_batch(samples, [""] * len(samples), has_filler=policy.layout == "packed").to(device)
        scores = policy(batch, compute_sft_loss, batch.weights_N / max(1, len(batch.weights_N)))
        logprobs_N = scores.logprobs_N.detach().double().cpu().numpy()
        ends = np.cumsum([len(sample.ids_T) - 1 for sample in samples])
        for index, part in zip(group, np.split(logprobs_N, ends[:-1]), strict=True):
            found[index] = part
    return np.concatenate(found)


def _take(rows: Sequence[RenderedSample], indexes: Sequence[int]) -> list[RenderedSample]:
    return [rows[index] for index in indexes]


def _free_memory(model: torch.nn.Module) -> None:
    """Give a model's memory back at once: its layers refer to one another, so that it would stay for a while."""
    for parameter in model.parameters():
        parameter.data = torch.empty(0, dtype=parameter.dtype, device=parameter.device)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
