"""What tasks that weigh given texts share: who gives log-likelihoods, and how messages become token rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from posttrain.chat.rendering import Renderer, SampleRequest
from posttrain.chat.text_prompts import TextRenderer, join_reply
from posttrain.core.errors import DataError, RefusedError, TemplateError
from posttrain.core.hashing import hash_text
from posttrain.core.records import Problem, RenderedSample
from posttrain.models.branch_logprobs import Branching
from posttrain.models.logprobs import CompletionLogprobs

Ids = npt.NDArray[np.int32]
LogprobsOf = Callable[[Sequence[Ids], Sequence[Ids]], list[CompletionLogprobs]]
"""Maps prompts and completions, as token ids, to the policy's log-probs of the completions."""
BranchLogprobsOf = Callable[[Sequence[Branching]], list[list[CompletionLogprobs]]]
"""Maps prompts with several completions each to the policy's log-probs of the completions."""

WEIGHED_AT_ONCE = 64
"""Rows whose tokens are in memory together."""


@dataclass(frozen=True, slots=True)
class Weigher:
    """A policy that weighs texts: its log-probs, its renderer, the longest row that it takes (None: no limit)."""

    policy_hash: str
    compute_logprobs: LogprobsOf
    compute_branch_logprobs: BranchLogprobsOf
    renderer: Renderer
    context_tokens: int | None = None
    text_renderer: TextRenderer = field(init=False)

    def __post_init__(self) -> None:
        """Make what encodes plain text: with the tokenizer's BOS and without a template."""
        object.__setattr__(self, "text_renderer", build_text_renderer(self.renderer))


def build_text_renderer(renderer: Renderer) -> TextRenderer:
    """Return what encodes plain text with a renderer's tokenizer; control tokens in rows stay text."""
    chat = renderer.format
    return TextRenderer(renderer.tokenizer, dict(chat.special_tokens), chat.stop_ids, specials_as_text=True)


def name_template(form: str, renderer: Renderer) -> str:
    """Return what names the template that prompts go through: its hash, or that of plain text, whoever is asked."""
    return renderer.format.hash if form == "chat" else hash_text("text")


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


def split_text(weigher: Weigher, prompt: str, reply: str, place: str) -> tuple[Ids, Ids]:
    """Return the tokens of a prompt, and those that the reply adds to them when both are encoded as one text.

    White space between the two belongs to the reply, whose first token often holds it. A token that would hold parts
    of both is split as the prompt alone has it (as `_encode_pair` of lm-evaluation-harness).

    Raises:
        DataError: The reply adds no token, or nothing stands before it.
        TemplateError: A text has no UTF-8 form.
    """
    stripped = prompt.rstrip()
    before = weigher.text_renderer.encode(stripped)
    after = weigher.text_renderer.encode(join_reply(prompt, reply))[len(before) :]
    if not before or not after:
        raise DataError(
            f"the reply {reply!r} cannot be weighed: " + ("it adds no token" if before else "nothing stands before it"),
            expected="a prompt, or a tokenizer with a BOS token, and a reply of at least one token",
            cure="give the rows a prompt, or ask with form: chat",
            place=place,
        )
    return np.array(before, dtype=np.int32), np.array(after, dtype=np.int32)
