"""What tasks that weigh given texts share: who gives log-likelihoods, and how messages become token rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from posttrain.chat.rendering import Renderer, SampleRequest
from posttrain.core.errors import DataError, RefusedError, TemplateError
from posttrain.core.records import Problem, RenderedSample
from posttrain.models.logprobs import CompletionLogprobs

Ids = npt.NDArray[np.int32]
LogprobsOf = Callable[[Sequence[Ids], Sequence[Ids]], list[CompletionLogprobs]]
"""Maps prompts and completions, as token ids, to the policy's log-probs of the completions."""

WEIGHED_AT_ONCE = 64
"""Rows whose tokens are in memory together."""


@dataclass(frozen=True, slots=True)
class Weigher:
    """A policy that weighs texts: its log-probs, its renderer, the longest row that it takes (None: no limit)."""

    policy_hash: str
    compute_logprobs: LogprobsOf
    renderer: Renderer
    context_tokens: int | None = None


def check_policy(weigher: Weigher, policy_hash: str, place: str) -> Weigher:
    """Return a weigher that holds the policy that is to be measured.

    Raises:
        RefusedError: It holds another one.
    """
    if weigher.policy_hash != policy_hash:
        raise RefusedError(
            f"the loaded policy is {weigher.policy_hash}",
            expected=f"policy {policy_hash}",
            cure="load the artifact that is to be measured",
            place=place,
        )
    return weigher


def render_replies(weigher: Weigher, problem: Problem, replies: Sequence[str]) -> list[RenderedSample]:
    """Return the problem's conversation with each reply, its last turn alone marked as trainable.

    Raises:
        DataError: The template refuses the conversation, or a reply leaves no token.
    """
    requests = [
        SampleRequest(
            [*problem.messages, {"role": "assistant", "content": reply}], problem.tools, len(problem.messages)
        )
        for reply in replies
    ]
    samples = []
    for reply, found in zip(replies, weigher.renderer.render_samples(requests), strict=True):
        if isinstance(found, TemplateError) or not found or not found[-1].is_trainable_T.any():
            what = found.found if isinstance(found, TemplateError) else "no token of it is the assistant's"
            raise DataError(
                f"the reply {reply!r} cannot be weighed: {what}",
                expected="a text that the chat template puts into an assistant's turn",
                cure="choose another source, or mend the row",
                place=problem.problem_id,
            )
        samples.append(found[-1])
    return samples


def split_sample(sample: RenderedSample) -> tuple[Ids, Ids, npt.NDArray[np.bool_]]:
    """Return what stands before the first trainable token, the rest, and which tokens of the rest are trainable."""
    start = max(1, int(sample.is_trainable_T.argmax()))
    return sample.ids_T[:start], sample.ids_T[start:], sample.is_trainable_T[start:]
