"""Compares what engines make of the same work: ids of texts, ids of prompts, greedy completions.

Where two greedy completions part, the reference's own log-probs of the two tokens tell how much it mattered: sums
taken in another order move logits a little, so a gap of nearly nothing is a tie, and a larger one is a difference.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.parity_work import Answers, Work

FindGap = Callable[[int, Sequence[int], int, int], float]
"""Log-prob of one token minus that of another, in nats, after a prompt (by its index) and ids that follow it."""


@dataclass(frozen=True, slots=True)
class Parting:
    """Where a completion leaves the reference's: the token drawn there by each, and the gap between the two.

    `gap_nats` is the log-prob of the reference's token minus that of the other's, by the reference's weights in
    float32. In bfloat16 it may be negative: there rounding misled the reference, and the other was right.
    """

    prompt: int
    position: int
    reference_token: int
    token: int
    gap_nats: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """What one engine has in common with the reference; `differing_kinds` name texts cut into other ids.

    `equal_texts` counts completions whose text is the same; `misspelt` lists prompts of which the ids are the
    same and the text is not.
    """

    engine: str
    differing_kinds: list[str]
    num_kinds: int
    equal_prompts: int
    equal_texts: int
    num_prompts: int
    partings: list[Parting]
    misspelt: list[int]

    @property
    def first_parting(self) -> Parting | None:
        """The parting after the fewest tokens."""
        return min(self.partings, key=lambda parting: parting.position, default=None)

    @property
    def largest_gap_nats(self) -> float:
        """The largest gap at a parting, 0 where there is none."""
        return max((parting.gap_nats for parting in self.partings), default=0.0)

    def list_faults(self, tolerance_nats: float) -> list[str]:
        """Return in words what is not explained by rounding."""
        faults = []
        if self.differing_kinds:
            counts = Counter(self.differing_kinds)
            named = [kind if count == 1 else f"{kind} ({count} texts)" for kind, count in counts.items()]
            faults.append(f"other ids for {', '.join(named)}")
        if self.equal_prompts < self.num_prompts:
            faults.append(f"other ids for {self.num_prompts - self.equal_prompts} of {self.num_prompts} prompts")
        if self.misspelt:
            faults.append(f"other text from the same ids, first after prompt {self.misspelt[0]}")
        wrong = [parting for parting in self.partings if not parting.gap_nats <= tolerance_nats]
        if wrong:
            worst = max(wrong, key=lambda parting: parting.gap_nats)
            faults.append(
                f"{len(wrong)} completions part where tokens are more than {tolerance_nats:g} nats apart,"
                f" up to {worst.gap_nats:.2g} (prompt {worst.prompt}, token {worst.position})"
            )
        return [f"{self.engine}: {fault}" for fault in faults]


def find_parting(reference: Sequence[int], other: Sequence[int], stop_id: int) -> tuple[int, int, int] | None:
    """Return where two completions part and both tokens there; the shorter one draws the stop token there."""
    if list(reference) == list(other):
        return None
    pairs = zip([*reference, stop_id], [*other, stop_id], strict=False)
    return next((index, one, two) for index, (one, two) in enumerate(pairs) if one != two)


def compare_answers(
    work: Work, kinds: Sequence[str], reference: Answers, other: Answers, find_gap: FindGap
) -> Comparison:
    """Compare an engine with the reference.

    Args:
        work: What both were given; prompts are compared with the ids in it, which are the renderer's.
        kinds: A name for each text; several may have the same.
        reference: Answers that texts and completions are compared with.
        other: The engine's answers.
        find_gap: Gives the reference's log-probs where completions part.
    """
    partings, misspelt = [], []
    for prompt, (one, two) in enumerate(zip(reference.completion_ids, other.completion_ids, strict=True)):
        parting = find_parting(one, two, work.stop_ids[0])
        if parting is not None:
            gap = find_gap(prompt, one[: parting[0]], parting[1], parting[2])
            partings.append(Parting(prompt, *parting, gap))
        elif reference.completion_texts[prompt] != other.completion_texts[prompt]:
            misspelt.append(prompt)
    cut = zip(kinds, reference.text_ids, other.text_ids, strict=True)
    return Comparison(
        other.engine,
        [kind for kind, one, two in cut if one != two],
        len(kinds),
        _count_equal(work.prompt_ids, other.prompt_ids),
        _count_equal(reference.completion_texts, other.completion_texts),
        len(work.prompt_ids),
        partings,
        misspelt,
    )


def _count_equal(one: Sequence[object], two: Sequence[object]) -> int:
    return sum(a == b for a, b in zip(one, two, strict=True))


def format_table(comparisons: Sequence[Comparison]) -> str:
    """Return a row for each engine, in markdown."""
    lines = [
        "| engine | texts, equal ids | prompts, equal ids | completions, equal text | first difference | largest gap |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for found in comparisons:
        first = found.first_parting
        where = "none"
        if first is not None:
            where = (
                f"prompt {first.prompt}, token {first.position}: {first.reference_token} or {first.token},"
                f" {first.gap_nats:.2g} nats"
            )
        lines.append(
            f"| {found.engine} | {found.num_kinds - len(found.differing_kinds)} of {found.num_kinds}"
            f" | {found.equal_prompts} of {found.num_prompts} | {found.equal_texts} of {found.num_prompts}"
            f" | {where} | {found.largest_gap_nats:.2g} nats |"
        )
    return "\n".join(lines)
