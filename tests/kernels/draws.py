"""Logits, settings and hand-written distributions that the tests of drawing share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from posttrain.core.sampling import SamplingSettings
from posttrain.kernels.drawing import Drawn, draw_tokens, pack_allowed

SETTINGS: tuple[dict[str, Any], ...] = (
    {"temperature": 1.0},
    {"temperature": 0.5},
    {"temperature": 2.0},
    {"temperature": 1.0, "top_k": 7},
    {"temperature": 1.0, "top_p": 0.8},
    {"temperature": 2.0, "top_p": 0.95},
    {"temperature": 1.0, "min_p": 0.1},
    {"temperature": 1.0, "repetition_penalty": 1.7},
    {"temperature": 0.5, "repetition_penalty": 0.6},
    {"temperature": 1.0, "allowed": True},
    {"temperature": 0.5, "top_k": 12, "top_p": 0.7},
    {"temperature": 2.0, "top_k": 40, "min_p": 0.05},
    {"temperature": 1.0, "top_p": 0.9, "min_p": 0.05, "allowed": True},
    {"temperature": 2.0, "top_k": 30, "top_p": 0.9, "min_p": 0.02, "repetition_penalty": 1.3, "allowed": True},
)


def name_of_settings(values: dict[str, Any]) -> str:
    return ",".join(f"{name}={value}" for name, value in values.items())


@dataclass
class Case:
    """Logits with the tokens that are seen and allowed, and the settings to draw by."""

    logits: torch.Tensor
    settings: SamplingSettings
    seen: torch.Tensor
    allowed: torch.Tensor | None

    def draw(self, uniforms: torch.Tensor | None, rows: Any = slice(None)) -> Drawn:
        seen = self.seen[rows] if self.settings.repetition_penalty else None
        allowed = None if self.allowed is None else pack_allowed(self.allowed[rows])
        return draw_tokens(self.logits[rows], self.settings, uniforms, seen_BV=seen, allowed_BW=allowed)

    def expand(self, row: int, count: int) -> Case:
        """The same row, `count` times."""
        allowed = None if self.allowed is None else self.allowed[row].expand(count, -1)
        return Case(self.logits[row].expand(count, -1), self.settings, self.seen[row].expand(count, -1), allowed)


# many parameters: a case has this many sides
def make_case(
    values: dict[str, Any],
    *,
    B: int = 5,
    V: int = 300,
    seed: int = 0,
    scale: float = 2.0,
    dtype: torch.dtype = torch.float32,
    max_new_tokens: int = 1,
) -> Case:
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(B, V, generator=generator) * scale).to(dtype)
    seen = torch.rand(B, V, generator=generator) < 0.3
    allowed = torch.rand(B, V, generator=generator) < 0.5
    named = {name: value for name, value in values.items() if name != "allowed"}
    settings = SamplingSettings(max_new_tokens=max_new_tokens, **named)
    return Case(logits, settings, seen, allowed if values.get("allowed") else None)


def exact_logprobs(case: Case) -> torch.Tensor:
    """The distribution to draw from, in float64, row by row and token by token as the definitions say it."""
    rows = []
    for row, logits in enumerate(case.logits.double()):
        scores = logits.clone()
        penalty = case.settings.repetition_penalty
        if penalty is not None:
            for token in case.seen[row].nonzero()[:, 0].tolist():
                scores[token] = scores[token] / penalty if scores[token] > 0 else scores[token] * penalty
        if case.allowed is not None:
            scores[~case.allowed[row]] = -torch.inf
        scores = scores / case.settings.temperature
        if case.settings.top_k is not None:
            least = scores.sort(descending=True).values[min(case.settings.top_k, len(scores)) - 1]
            scores[scores < least] = -torch.inf
        if case.settings.top_p is not None:
            _keep_nucleus(scores, case.settings.top_p)
        if case.settings.min_p is not None:
            probabilities = scores.softmax(-1)
            scores[probabilities < case.settings.min_p * probabilities.max()] = -torch.inf
        rows.append(scores.log_softmax(-1))
    return torch.stack(rows)


def _keep_nucleus(scores: torch.Tensor, top_p: float) -> None:
    """Leave the fewest most probable tokens that reach top_p; of equals, the lowest ids."""
    probabilities = scores.softmax(-1).tolist()
    reached = 0.0
    for token in sorted(range(len(probabilities)), key=lambda token: (-probabilities[token], token)):
        if reached >= top_p:
            scores[token] = -torch.inf
        reached += probabilities[token]
