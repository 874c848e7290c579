"""A sampler that draws n completions and gives the one that a scorer chooses.

| by | what is taken |
| --- | --- |
| `score` | the completion of the largest value |
| `verifier` | the first that passes (a value of 1), where none does the first |
| `majority` | the first of those that gave the answer that most gave; what cannot be read does not vote |

The first sample of equals is taken, always, so that the same seeds choose the same. What the policy caused (cut off,
not to be read) is worth its declared value; a candidate on which the scorer's harness failed is scored once more and
then left out.

A chosen completion keeps its tokens and the policy's log-probs of them. It has no `drawing_logprobs`: the chance of
best-of-n to give it takes the chance of every other text, so whoever weighs by them (`rollouts.origin`) refuses it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Literal

from posttrain.core.errors import RecipeError
from posttrain.core.protocols import Scorer
from posttrain.core.records import Completion, Outcome, Problem, Selection
from posttrain.core.sampling import PolicyVersion, Sampler, SamplingSettings
from posttrain.statistics.repeats import RIGHT, read_vote

By = Literal["score", "verifier", "majority"]
_SCORED_AT_ONCE = 64
"""Candidates that a scorer is given together, or one problem's where those are more."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """A chosen completion, with all that it was chosen among.

    Made by `BestOfNSampler.choose`, read by whoever makes rows of them. `candidates` and `outcomes` are in the order of
    their samples; `completion` is the chosen one as the sampler gives it.

    Example: of two with values 0 and 1: `completion.selection == Selection("score", (0.0, 1.0), place=1)`.
    """

    completion: Completion
    candidates: tuple[Completion, ...]
    outcomes: tuple[Outcome, ...]

    @property
    def selection(self) -> Selection:
        """How it was chosen."""
        assert self.completion.selection is not None
        return self.completion.selection


def compute_worths(by: By, outcomes: Sequence[Outcome], texts: Sequence[str]) -> list[float | None]:
    """Return what a rule holds each candidate to be worth: its value, 1 or 0, or the share of votes for its answer.

    Args:
        by: The rule.
        outcomes: What the scorer says of each candidate; without a verdict it is worth None.
        texts: What each says, which votes where the scorer names no answer.
    """
    if by == "score":
        return [outcome.value if outcome.is_counted else None for outcome in outcomes]
    if by == "verifier":
        return [float(outcome.value >= RIGHT) if outcome.is_counted else None for outcome in outcomes]
    votes = [read_vote(outcome, text) for outcome, text in zip(outcomes, texts, strict=True)]
    counts = Counter(vote for vote in votes if vote is not None)
    shares = [0.0 if vote is None else counts[vote] / len(votes) for vote in votes]
    return [share if outcome.is_counted else None for share, outcome in zip(shares, outcomes, strict=True)]


def choose_place(by: By, outcomes: Sequence[Outcome], texts: Sequence[str]) -> int | None:
    """Return the place of the candidate that a rule takes, the first of those worth most; None without a verdict."""
    worths = compute_worths(by, outcomes, texts)
    judged = [(worth, -place) for place, worth in enumerate(worths) if worth is not None]
    return -max(judged)[1] if judged else None


def check_candidates(n: int, settings: SamplingSettings) -> None:
    """Refuse to draw several candidates greedily.

    Raises:
        RecipeError: n is above 1 and the temperature 0.
    """
    if settings.temperature == 0 and n > 1:
        raise RecipeError(
            f"the best of {n} at temperature 0, where all candidates are the same",
            expected="candidates that differ",
            cure="set a temperature such as 1.0, or draw one",
            place="temperature",
        )


class BestOfNSampler:
    """Draws from another sampler, n for one, and gives what a scorer chooses (`core.sampling.Sampler`).

    Args:
        sampler: Draws the candidates. It belongs to this one: closing this closes it.
        scorer: Judges them.
        n: Candidates of each completion, at least 1.
        by: The rule.

    Raises:
        RecipeError: n is below 1.
    """

    def __init__(self, sampler: Sampler, scorer: Scorer, *, n: int, by: By = "score") -> None:
        if n < 1:
            raise RecipeError(f"the best of {n}", expected="1 candidate or more", cure="set n to 8, say", place="n")
        self._sampler = sampler
        self._scorer = scorer
        self.n = n
        self.by: By = by

    @property
    def policy_hash(self) -> str:
        """The policy that draws."""
        return self._sampler.policy_hash

    @policy_hash.setter
    def policy_hash(self, name: str) -> None:
        self._sampler.policy_hash = name

    def sample(
        self, problems: Sequence[Problem], settings: SamplingSettings, seeds: Sequence[int]
    ) -> Iterator[tuple[int, Completion]]:
        """Yield (index of the problem, chosen completion) as they are chosen (`choose`)."""
        with closing(self.choose(problems, settings, seeds)) as chosen:  # type: ignore[type-var]
            for index, one in chosen:
                yield index, one.completion

    def choose(
        self, problems: Sequence[Problem], settings: SamplingSettings, seeds: Sequence[int]
    ) -> Iterator[tuple[int, Chosen]]:
        """Yield (index of the problem, what was chosen among what) as problems are done; closing it cancels the rest.

        With `num_samples` of m, sample i is chosen among the draws i n to i n + n - 1 of the wrapped sampler, so that
        one completion of best-of-n is chosen among the n that the same seed draws without it.

        Raises:
            RecipeError: More than one candidate is to be drawn greedily.
        """
        check_candidates(self.n, settings)
        drawing = replace(settings, num_samples=self.n * settings.num_samples)
        waiting: dict[tuple[int, int], list[Completion]] = {}
        ready: list[tuple[int, list[Completion]]] = []
        with closing(self._sampler.sample(problems, drawing, seeds)) as drawn:  # type: ignore[type-var]
            for index, completion in drawn:
                key = (index, completion.sample_index // self.n)
                candidates = waiting.setdefault(key, [])
                candidates.append(completion)
                if len(candidates) < self.n:
                    continue
                ready.append((index, sorted(waiting.pop(key), key=lambda one: one.sample_index)))
                if len(ready) * self.n >= _SCORED_AT_ONCE:
                    yield from self._judge(problems, ready)
                    ready = []
        yield from self._judge(problems, ready)

    def publish(self, policy: PolicyVersion) -> str:
        """Hand a policy's weights to the wrapped sampler."""
        return self._sampler.publish(policy)

    def close(self) -> None:
        """Close the wrapped sampler."""
        self._sampler.close()

    def _judge(
        self, problems: Sequence[Problem], ready: Sequence[tuple[int, list[Completion]]]
    ) -> Iterator[tuple[int, Chosen]]:
        items = [(problems[index], candidate) for index, candidates in ready for candidate in candidates]
        outcomes = list(self._scorer.score(items)) if items else []
        failed = [place for place, outcome in enumerate(outcomes) if outcome.fault == "harness"]
        if failed:
            again = self._scorer.score([items[place] for place in failed])
            for place, outcome in zip(failed, again, strict=True):
                outcomes[place] = outcome
        for number, (index, candidates) in enumerate(ready):
            own = outcomes[number * self.n : (number + 1) * self.n]
            yield index, Chosen(self._take(candidates, own), tuple(candidates), tuple(own))

    def _take(self, candidates: Sequence[Completion], outcomes: Sequence[Outcome]) -> Completion:
        place = choose_place(self.by, outcomes, [candidate.text for candidate in candidates])
        scores = tuple(outcome.value if outcome.is_counted else None for outcome in outcomes)
        taken = candidates[place or 0]
        return replace(
            taken,
            sample_index=taken.sample_index // self.n,
            drawing_logprobs=None,
            selection=Selection(self.by, scores, place),
        )
