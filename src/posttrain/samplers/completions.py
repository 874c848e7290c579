"""From a sequence that has ended to the completion that others read."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from posttrain.core.records import Completion, Problem, TopLogprobs
from posttrain.samplers.pool import Finished


def build_completion(
    problem: Problem, finished: Finished, decode: Callable[[Sequence[int]], str], policy_hash: str
) -> Completion:
    """Return the completion of a problem: its text ends before the stop token or the stop string."""
    written = finished.written
    ids = written.ids.numpy().astype(np.int32)
    text = finished.text
    if text is None:
        text = decode((ids[:-1] if finished.finish_reason == "stop" else ids).tolist())
    top = None
    if written.top_ids is not None and written.top_logprobs is not None:
        top = TopLogprobs(written.top_ids.numpy().astype(np.int32), written.top_logprobs.numpy())
    return Completion(
        problem_id=problem.problem_id,
        sample_index=finished.sample_index,
        prompt_ids=np.array(finished.group.prompt, dtype=np.int32),
        ids=ids,
        text=text,
        finish_reason=finished.finish_reason,
        policy_hash=policy_hash,
        seed=finished.seed,
        sampler_logprobs=written.logprobs.numpy(),
        drawing_logprobs=written.drawing_logprobs.numpy(),
        top_logprobs=top,
    )
