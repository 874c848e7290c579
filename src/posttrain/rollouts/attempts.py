"""Attempts at problems, drawn turn by turn: a policy speaks, tools reply, it goes on, until it calls nothing.

Tokens in, tokens out: the next prompt is the ids of the last one, the ids that were drawn, and the ids of the
observation. Nothing that was drawn is decoded and tokenized again. All attempts whose turn called something go on
together in the next pass of the sampler. A draw is a function of policy, problem, seed, sample and turn.

Without an environment an attempt is one completion, and comes as the sampler gives it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from posttrain.chat.tool_turns import ToolTurn
from posttrain.core.errors import RecipeError, SamplerError
from posttrain.core.records import Completion, Message, Observation, Outcome, Problem, Rollout, TokenizedProblem
from posttrain.core.sampling import Sampler, SamplingSettings
from posttrain.core.seeds import derive_seed
from posttrain.rollouts.environments import Environment, ToolReplies
from posttrain.rollouts.tools import ToolBrokenError

_TURNS_ANSWERED_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Attempt:
    """A rollout that no scorer has judged.

    Made by `draw_attempts`, read by whoever has it judged. `transcript` are its messages before the last turn.
    `verdict` is its outcome where that is known without a scorer: it was cut, or the harness failed.
    """

    turns: tuple[Completion | Observation, ...]
    transcript: tuple[Message, ...] = ()
    verdict: Outcome | None = None

    @property
    def last(self) -> Completion:
        """The completion that ended it, as it was drawn."""
        last = self.turns[-1]
        assert isinstance(last, Completion)
        return last

    @property
    def judged(self) -> Completion:
        """What a scorer is given: the last completion, and what was said before it."""
        return replace(self.last, transcript=self.transcript) if self.transcript else self.last

    @property
    def completions(self) -> list[Completion]:
        """What the policy drew."""
        return [turn for turn in self.turns if isinstance(turn, Completion)]

    @property
    def num_drawn(self) -> int:
        """How many tokens the policy drew."""
        return sum(len(completion.ids) for completion in self.completions)

    @property
    def num_observed(self) -> int:
        """How many tokens observations have."""
        return sum(len(turn.ids) for turn in self.turns if isinstance(turn, Observation))

    def conclude(self, outcome: Outcome) -> Rollout:
        """Return the rollout with what it is worth."""
        return Rollout(self.last.problem_id, self.last.sample_index, self.turns, outcome)


class ReplyBook(Protocol):
    """Remembers what tools replied, by the completion that called them."""

    def find(self, completion: Completion) -> ToolReplies | None:
        """Return what was replied before, None where nothing was."""

    def keep(self, completion: Completion, replies: ToolReplies) -> None:
        """Take down replies; those that were found are told again."""


@dataclass(frozen=True, slots=True)
class _Going:
    """An attempt that goes on: with what its last turn calls, what came of it, and then with where it is to go on."""

    index: int
    attempt: Attempt
    turn: ToolTurn
    replies: Future[ToolReplies] | ToolReplies
    prompt: tuple[int, ...] = ()
    room: int = 0


# many parameters: what is drawn, how, and from whom
def draw_attempts(
    problems: Sequence[Problem],
    seeds: Sequence[int],
    sampler: Sampler,
    settings: SamplingSettings,
    environment: Environment | None = None,
    book: ReplyBook | None = None,
) -> Iterator[tuple[int, Attempt]]:
    """Yield (index of the problem, attempt) as they end, in any order.

    Args:
        problems: What to answer.
        seeds: One for each problem.
        sampler: Holds the policy.
        settings: How to draw; `max_new_tokens` bounds what is drawn in all turns together.
        environment: What replies to calls; None for one turn.
        book: Remembers replies.

    Raises:
        RecipeError: Stop strings in an environment.
        DataError: A problem offers a tool that is not there, or leaves no room in the model's context.
        SamplerError: The sampler speaks text alone.
    """
    if environment is None:
        for index, completion in sampler.sample(problems, settings, seeds):
            yield index, Attempt((completion,))
        return
    check_stop_strings(settings.stop_strings)
    offered = [environment.offer(problem) for problem in problems]
    with ThreadPoolExecutor(_TURNS_ANSWERED_AT_ONCE, thread_name_prefix="tools") as workers:
        turns = _Turns(offered, seeds, sampler, settings, environment, workers, book)
        drawn = turns.begin()
        while True:
            going: list[_Going] = []
            for index, attempt in drawn:
                found = turns.judge(index, attempt)
                if isinstance(found, _Going):
                    going.append(found)
                else:
                    yield index, found
            if not going:
                return
            ready, ended = turns.observe(going)
            yield from ended
            drawn = turns.go_on(ready)


def check_stop_strings(stop_strings: Sequence[str]) -> None:
    """Refuse stop strings where calls are answered: they end a turn before its stop token, and calls before their end.

    Raises:
        RecipeError: There are some.
    """
    if stop_strings:
        raise RecipeError(
            f"the stop string {stop_strings[0]!r} in an environment",
            expected="turns that end by the policy's own stop token, behind which tools reply",
            cure="leave 'stop' out",
            place="stop",
        )


@dataclass(slots=True)
class _Turns:
    """The parts that the turns of one drawing share."""

    problems: Sequence[Problem]
    seeds: Sequence[int]
    sampler: Sampler
    settings: SamplingSettings
    environment: Environment
    workers: ThreadPoolExecutor
    book: ReplyBook | None

    def begin(self) -> Iterator[tuple[int, Attempt]]:
        """Yield first turns."""
        for index, completion in self.sampler.sample(self.problems, self.settings, self.seeds):
            if not len(completion.prompt_ids):
                raise SamplerError(
                    "a completion without token ids",
                    expected="a sampler that gives them: the next turn goes on from what was drawn",
                    cure="draw with another sampler, or leave 'environment' out",
                    place="environment",
                )
            yield index, Attempt((completion,))

    def judge(self, index: int, attempt: Attempt) -> Attempt | _Going:
        """Return an attempt that has ended with its last turn, or what it calls, on its way to be answered."""
        last, limits = attempt.last, self.environment.settings
        turn = self.environment.read_turn(last.text) if last.finish_reason == "stop" else None
        if turn is None:
            return attempt
        if len(attempt.completions) >= limits.max_turns:
            return _cut(attempt, f"a call in turn {limits.max_turns}, the last of max_turns")
        if attempt.num_drawn >= self.settings.max_new_tokens:
            return _cut(attempt, f"a call with the last of {self.settings.max_new_tokens} tokens")
        known = self.book.find(last) if self.book is not None else None
        replies = known or self.workers.submit(self.environment.answer, self.problems[index], turn)
        return _Going(index, attempt, turn, replies)

    def observe(self, going: Sequence[_Going]) -> tuple[list[_Going], list[tuple[int, Attempt]]]:
        """Return attempts that go on behind their observation, by problem and sample, and those that a bound ends."""
        answered: list[tuple[_Going, ToolReplies]] = []
        ended: list[tuple[int, Attempt]] = []
        for one in sorted(going, key=lambda one: (one.index, one.attempt.last.sample_index)):
            try:
                replies = one.replies if isinstance(one.replies, ToolReplies) else one.replies.result()
            except ToolBrokenError as error:
                fault = Outcome("errored", 0.0, why=str(error), fault="harness")
                ended.append((one.index, replace(one.attempt, verdict=fault)))
                continue
            if self.book is not None:
                self.book.keep(one.attempt.last, replies)
            answered.append((one, replies))
        seen = self.environment.observe([(self.problems[one.index], replies) for one, replies in answered])
        ready = []
        for (one, _), observation in zip(answered, seen, strict=True):
            found = self._join(one, observation)
            if isinstance(found, Attempt):
                ended.append((one.index, found))
            else:
                ready.append(found)
        return ready, ended

    def _join(self, one: _Going, observation: Observation) -> _Going | Attempt:
        attempt, limits, context = one.attempt, self.environment.settings, self.environment.context_tokens
        num_observed = attempt.num_observed + len(observation.ids)
        if num_observed > limits.max_observation_tokens:
            return _cut(attempt, f"{num_observed} tokens of tools, more than {limits.max_observation_tokens}")
        parts = (attempt.last.prompt_ids, attempt.last.ids, observation.ids)
        prompt = tuple(np.concatenate(parts).tolist())
        room = self.settings.max_new_tokens - attempt.num_drawn
        if context is not None:
            room = min(room, context - len(prompt))
        if room < 1:
            return _cut(attempt, f"the model's context of {context} tokens is full")
        transcript = (*attempt.transcript, one.turn.message, *observation.replies)
        return replace(one, attempt=Attempt((*attempt.turns, observation), transcript), prompt=prompt, room=room)

    def go_on(self, ready: Sequence[_Going]) -> Iterator[tuple[int, Attempt]]:
        """Yield attempts with their next turn."""
        for together in self._cut_passes(ready):
            prompts, seeds = [], []
            for one in together:
                first = one.attempt.completions[0]
                prompts.append(TokenizedProblem(first.problem_id, [], prompt_ids=one.prompt))
                turn = len(one.attempt.completions)
                seeds.append(derive_seed("turn", self.seeds[one.index], first.sample_index, turn))
            settings = replace(self.settings, num_samples=1, max_new_tokens=max(one.room for one in together))
            for place, completion in self.sampler.sample(prompts, settings, seeds):
                one = together[place]
                drawn = replace(completion, sample_index=one.attempt.completions[0].sample_index)
                yield one.index, replace(one.attempt, turns=(*one.attempt.turns, self._shorten(drawn, one.room)))

    def _cut_passes(self, ready: Sequence[_Going]) -> Iterator[list[_Going]]:
        """Yield attempts that are drawn together: whose prompts leave room for as much as the roomiest may draw."""
        context = self.environment.context_tokens
        waiting = sorted(ready, key=lambda one: -one.room)
        while waiting:
            most = waiting[0].room
            fits = [context is None or len(one.prompt) + most <= context for one in waiting]
            yield [one for one, does_fit in zip(waiting, fits, strict=True) if does_fit]
            waiting = [one for one, does_fit in zip(waiting, fits, strict=True) if not does_fit]

    def _shorten(self, completion: Completion, room: int) -> Completion:
        """Return a completion cut to what its own attempt may draw; others of its pass may draw more."""
        if len(completion.ids) <= room:
            return completion
        ids = completion.ids[:room]
        sampled, drawing = completion.sampler_logprobs, completion.drawing_logprobs
        return replace(
            completion,
            ids=ids,
            text=self.environment.decode(ids.tolist()),
            finish_reason="length",
            sampler_logprobs=None if sampled is None else sampled[:room],
            drawing_logprobs=None if drawing is None else drawing[:room],
            top_logprobs=None,
        )


def _cut(attempt: Attempt, why: str) -> Attempt:
    return replace(attempt, verdict=Outcome("truncated", 0.0, why=why, fault="policy"))
