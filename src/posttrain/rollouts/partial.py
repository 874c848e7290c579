"""Partial rollouts: what has not ended after so many tokens goes on in the next step, under the policy of then.

A step draws so many tokens of each rollout at most. Those that have not ended are set aside with what was drawn, and
the next step goes on behind it, up to the cap on tokens in all. A group is trained on in the step in which the last of
its rollouts ends. The last step draws all to their ends, so that every group that was begun is trained on once, in the
order in which they were begun: what is long comes later, but is not left out.

A rollout is then several completions, each with the policy that drew it and that policy's log-probs, so that importance
weights of tokens are those between the policy that is trained and the one that drew them.

Sources: Kimi Team 2025, "Kimi k1.5" (arXiv 2501.12599), section 2.6.2; Zhou et al. 2025, "APRIL" (arXiv 2509.18521),
which stops at a number of whole rollouts in place of a number of tokens. Known difference: Kimi trains on segments of
earlier steps without a loss; here every token has one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from posttrain.core.errors import DataError, SamplerError, StorageError
from posttrain.core.hashing import hash_json
from posttrain.core.records import Completion, Group, Outcome, Problem, Rollout, TokenizedProblem
from posttrain.core.seeds import derive_seed
from posttrain.rollouts.attempts import Attempt
from posttrain.rollouts.dynamic import Staleness
from posttrain.rollouts.groups import Drawing, check_faults, judge_as_drawn
from posttrain.rollouts.journal import name_completion
from posttrain.rollouts.partial_journal import OpenGroup, PartialJournal


@dataclass(frozen=True, slots=True)
class PartialSettings:
    """How rollouts go on.

    Args:
        tokens_per_step: What one step draws of a rollout at most.
        last_step: The step that draws all to their ends.
        decode: Gives the text of ids.
        context_tokens: The longest row that the policy takes, None for no limit.
    """

    tokens_per_step: int
    last_step: int
    decode: Callable[[Sequence[int]], str]
    context_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class EndedGroups:
    """What ended in a step: groups in the order in which they were begun, and how much likelier each problem was drawn.

    `staleness` says how old their tokens are.
    """

    groups: tuple[Group, ...]
    weights: tuple[float, ...]
    staleness: Staleness


@dataclass(frozen=True, slots=True)
class _PlacedAttempt(Attempt):
    """A whole rollout as one completion, for whoever judges it, and where it belongs."""

    place: int = 0


@dataclass(frozen=True, slots=True)
class PartialDrawer:
    """Draws steps; one that was drawn before is read from the journal.

    Args:
        problems_of: The problems that a step begins, and how much likelier each was drawn than under even chances.
        drawing: Who draws and judges.
        settings: How rollouts go on.
        journal: Where it is written down.
        scorer_hash: The name by content of who judges.
        seed: What draws start from.
    """

    problems_of: Callable[[int], Sequence[tuple[Problem, float]]]
    drawing: Drawing
    settings: PartialSettings
    journal: PartialJournal
    scorer_hash: str
    seed: int

    def draw(self, step: int, policy_hash: str) -> EndedGroups:
        """Return the groups that end in a step under a policy, which the sampler holds.

        Raises:
            RefusedError: The harness failed on too many rollouts.
            DataError: A prompt leaves no room for the cap in the model's context.
        SamplerError: The sampler gives no token ids.
            StorageError: The journal cannot be read or written, or lacks what the step before has set aside.
        """
        going = [*self._read_set_aside(step), *self._begin(step)]
        key = self._make_key(going, step, policy_hash)
        whole = self.journal.read(step, key)
        if whole is None:
            whole = self._draw(going, step, key)
            self.journal.finish(step, whole)
        return _list_ended(whole, step)

    def recall(self, step: int) -> EndedGroups:
        """Return the groups of a step that must be in the journal, because the policy that drew it has moved on.

        Raises:
            StorageError: They are not there.
        """
        return _list_ended(self._read_whole(step), step)

    def _read_whole(self, step: int) -> list[OpenGroup]:
        found = self.journal.read(step)
        if found is None:
            raise StorageError(
                f"the rollouts of step {step} are missing, behind which others go on",
                expected="the journal that was written when they were drawn",
                cure="restore the file, or delete the stage's folder, so that it is run from its start",
                place=str(self.journal.path(step)),
            )
        return found

    def _read_set_aside(self, step: int) -> list[OpenGroup]:
        if step == 0:
            return []
        return [group for group in self._read_whole(step - 1) if not group.has_ended]

    def _begin(self, step: int) -> list[OpenGroup]:
        count = self.drawing.settings.num_samples
        return [
            OpenGroup(problem, step, weight, ((),) * count, (None,) * count)
            for problem, weight in self.problems_of(step)
        ]

    def _draw(self, going: Sequence[OpenGroup], step: int, key: str) -> list[OpenGroup]:
        """Return all groups that are under way with what the step has drawn of them and what it was worth."""
        known = self.journal.begin(step, key)
        segments = {(place, n): one for place, group in enumerate(going) for n, one in enumerate(group.segments)}
        outcomes = {(place, n): one for place, group in enumerate(going) for n, one in enumerate(group.outcomes)}

        def collect() -> Iterator[tuple[int, Attempt]]:
            for place, completion in self._draw_segments(going, step):
                where = (place, completion.sample_index)
                segments[where] = (*segments[where], completion)
                if step == self.settings.last_step or self._has_ended(segments[where]):
                    yield place, _PlacedAttempt((self._join(segments[where]),), place=place)

        def find_known(joined: Completion) -> Outcome | None:
            return known.get(name_completion(joined))

        problems = [group.problem for group in going]
        for judged in judge_as_drawn(problems, collect(), self.drawing, find_known):
            names = []
            for attempt, outcome in judged:
                assert isinstance(attempt, _PlacedAttempt)  # what was given to the judge
                outcomes[attempt.place, attempt.last.sample_index] = outcome
                names.append((name_completion(attempt.last), outcome))
            self.journal.add(step, [(name, outcome) for name, outcome in names if name not in known])
        check_faults([outcome for outcome in outcomes.values() if outcome is not None])
        return [
            replace(
                group,
                segments=tuple(segments[place, n] for n in range(len(group.segments))),
                outcomes=tuple(outcomes[place, n] for n in range(len(group.segments))),
            )
            for place, group in enumerate(going)
        ]

    def _draw_segments(self, going: Sequence[OpenGroup], step: int) -> Iterator[tuple[int, Completion]]:
        """Yield (place of the group, completion) for the next segment of every rollout that has not ended."""
        settings = self.drawing.settings
        limit = settings.max_new_tokens if step == self.settings.last_step else self.settings.tokens_per_step
        fresh = [place for place, group in enumerate(going) if group.started == step]
        drawn = self.drawing.sampler.sample(
            [going[place].problem for place in fresh],
            replace(settings, max_new_tokens=min(limit, settings.max_new_tokens)),
            [self._derive_seed(going[place]) for place in fresh],
        )
        for index, completion in drawn if fresh else ():
            self._check_begun(completion)
            yield fresh[index], completion
        for room, together in self._list_continuing(going, step, limit).items():
            prompts = [self._build_prompt(going[place].segments[sample]) for place, sample in together]
            seeds = [
                derive_seed("segment", self._derive_seed(going[place]), sample, len(going[place].segments[sample]))
                for place, sample in together
            ]
            alone = replace(settings, num_samples=1, max_new_tokens=room)
            for index, completion in self.drawing.sampler.sample(prompts, alone, seeds):
                place, sample = together[index]
                yield place, replace(completion, sample_index=sample)

    def _check_begun(self, completion: Completion) -> None:
        """Refuse what cannot go on, when it is begun and not some steps later."""
        cap, context = self.drawing.settings.max_new_tokens, self.settings.context_tokens
        length = len(completion.prompt_ids)
        if not length:
            raise SamplerError(
                "a completion without token ids",
                expected="a sampler that gives them: a rollout goes on behind what was drawn",
                cure="draw with another sampler, or leave rollout_tokens_per_step out",
                place="rollout_tokens_per_step",
            )
        if context is not None and length + cap > context:
            raise DataError(
                f"a prompt of {length} tokens and max_new_tokens {cap}",
                expected=f"at most {context} tokens together, the model's context",
                cure="lower max_new_tokens, or leave out or shorten this row",
                place=completion.problem_id,
            )

    def _list_continuing(self, going: Sequence[OpenGroup], step: int, limit: int) -> dict[int, list[tuple[int, int]]]:
        """Return (place, sample) of rollouts that go on, by the tokens that the step may draw of each."""
        found: dict[int, list[tuple[int, int]]] = {}
        for place, group in enumerate(going):
            for sample, outcome in enumerate(group.outcomes):
                if outcome is None and group.started < step:
                    left = self.drawing.settings.max_new_tokens - _count_drawn(group.segments[sample])
                    found.setdefault(min(limit, left), []).append((place, sample))
        return found

    def _has_ended(self, segments: Sequence[Completion]) -> bool:
        """Whether a rollout goes no further: by itself, at the cap, or at the end of the model's context."""
        last = segments[-1]
        if last.finish_reason != "length" or _count_drawn(segments) >= self.drawing.settings.max_new_tokens:
            return True
        return len(last.ids) < self.settings.tokens_per_step

    def _build_prompt(self, segments: Sequence[Completion]) -> TokenizedProblem:
        last = segments[-1]
        ids = np.concatenate([last.prompt_ids, last.ids]).tolist()
        return TokenizedProblem(last.problem_id, [], prompt_ids=tuple(ids))

    def _join(self, segments: Sequence[Completion]) -> Completion:
        """Return a rollout as if it had been drawn at once, for whoever judges it."""
        if len(segments) == 1:
            return segments[0]
        first, last = segments[0], segments[-1]
        ids = np.concatenate([segment.ids for segment in segments])
        text = self.settings.decode((ids[:-1] if last.finish_reason == "stop" else ids).tolist())
        return replace(
            last, prompt_ids=first.prompt_ids, ids=ids, text=text, sampler_logprobs=None, drawing_logprobs=None
        )

    def _derive_seed(self, group: OpenGroup) -> int:
        return derive_seed(self.seed, "rollout", group.started, group.problem.problem_id)

    def _make_key(self, going: Sequence[OpenGroup], step: int, policy_hash: str) -> str:
        settings = self.drawing.settings
        parts = [
            [group.problem.problem_id, group.started, [name_completion(one[-1]) for one in group.segments if one]]
            for group in going
        ]
        how = [settings.max_new_tokens, settings.temperature, settings.num_samples, self.settings.tokens_per_step]
        is_last = step == self.settings.last_step
        return hash_json([policy_hash, parts, self.seed, how, is_last, self.scorer_hash])


def _count_drawn(segments: Sequence[Completion]) -> int:
    return sum(len(segment.ids) for segment in segments)


def _list_ended(whole: Sequence[OpenGroup], step: int) -> EndedGroups:
    ended = [group for group in whole if group.has_ended]
    tokens: dict[int, int] = {0: 0}
    for group in ended:
        for segments in group.segments:
            for number, segment in enumerate(segments):
                age = step - group.started - number
                tokens[age] = tokens.get(age, 0) + len(segment.ids)
    by_age = tuple(tokens.get(age, 0) for age in range(max(tokens) + 1))
    return EndedGroups(
        tuple(_build_group(group) for group in ended),
        tuple(group.weight for group in ended),
        Staleness(by_age, len(whole) - len(ended)),
    )


def _build_group(group: OpenGroup) -> Group:
    name = group.problem.problem_id
    rollouts = []
    for sample, (segments, outcome) in enumerate(zip(group.segments, group.outcomes, strict=True)):
        assert outcome is not None  # the group has ended
        rollouts.append(Rollout(name, sample, segments, outcome))
    return Group(group.problem, tuple(rollouts))
