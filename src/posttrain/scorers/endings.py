"""What a completion's ending says before anything in it is read."""

from __future__ import annotations

from posttrain.core.records import Completion, Outcome


def judge_ending(completion: Completion) -> Outcome | None:
    """Return the failure of a completion that did not end by itself or is empty, or None where it can be read.

    A completion cut at its length limit or by a content filter is `truncated` and an empty one `unparsed`: they
    are the policy's failures, worth 0 and in every denominator. A cancelled one is the harness's.
    """
    if completion.finish_reason == "cancelled":
        return Outcome("errored", 0.0, why="cancelled before it ended", fault="harness")
    if completion.finish_reason == "length":
        return Outcome("truncated", 0.0, why=f"no stop token in {len(completion.ids)} tokens", fault="policy")
    if completion.finish_reason == "filtered":
        return Outcome("truncated", 0.0, why="withheld by the endpoint's content filter", fault="policy")
    if not completion.text.strip():
        return Outcome("unparsed", 0.0, why="empty completion", fault="policy")
    return None
