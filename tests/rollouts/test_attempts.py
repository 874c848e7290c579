"""Turns: what is trained on is what was drawn, whatever tools do is an observation, and every bound holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from posttrain.core.errors import DataError, RecipeError
from posttrain.core.records import Observation, Outcome, Problem
from posttrain.rollouts.attempts import Attempt, draw_attempts
from posttrain.rollouts.groups import Drawing, draw_groups
from tests.rollouts.made_up import LengthScorer, make_problems
from tests.rollouts.scripted import SETTINGS, ScriptedSampler, call, make_environment, make_renderer

Script = Callable[[str, int], str]


def once(text: str, then: str = "Answer: done") -> Script:
    """Say one thing until a tool has replied, and then another."""
    return lambda prompt, seed: then if "Tool:\n" in prompt else text


def draw(script: Script, *, kind: str = "bytes", settings: Any = SETTINGS, problems: Any = None, **limits: Any) -> Any:
    """Attempts by problem and sample."""
    renderer = make_renderer(kind)
    sampler = ScriptedSampler(renderer, script, kind)
    asked = problems or make_problems(2)
    environment = make_environment(renderer, **limits)
    drawn = list(draw_attempts(asked, range(len(asked)), sampler, settings, environment))
    found = {(index, attempt.last.sample_index): attempt for index, attempt in drawn}
    assert len(found) == len(drawn) == len(asked) * settings.num_samples
    return found, sampler


def replies(attempt: Attempt) -> list[str]:
    return [message["content"] for message in attempt.transcript if message["role"] == "tool"]


@pytest.mark.parametrize("kind", ["bytes", "nfc", "swallowing", "legacy", "metaspace"])
def test_every_prompt_is_the_very_tokens_before_it(kind: str) -> None:
    found, sampler = draw(once(call("repeat", text="é 42"), "so it is"), kind=kind)
    texts = sampler.renderer.tokenizer
    for attempt in found.values():
        first, seen, last = attempt.turns
        assert isinstance(seen, Observation) and texts.decode(seen.ids.tolist()).strip().endswith("Assistant:")
        expected = np.concatenate([first.prompt_ids, first.ids, seen.ids])
        assert last.prompt_ids.dtype == np.int32 and np.array_equal(last.prompt_ids, expected)
        assert texts.encode_with_offsets(first.text)[0] != first.ids[:-1].tolist()
        rollout = attempt.conclude(Outcome("scored", 1.0))
        drawn = rollout.ids_T[rollout.is_drawn_T]
        assert np.array_equal(drawn, np.concatenate([first.ids, last.ids]))
        assert rollout.num_drawn == attempt.num_drawn == len(drawn)


def test_an_observation_is_what_the_template_writes_between_two_turns() -> None:
    found, sampler = draw(once(call("repeat", text="4</s>2") + call("repeat", text="7")))
    [_, seen, last] = found[0, 0].turns
    assert sampler.renderer.tokenizer.decode(seen.ids.tolist()) == "\nTool:\n4</s>2</s>\nTool:\n7</s>\nAssistant:\n"
    # What a tool says stays text: two stop tokens are the template's, and the tool's own is none.
    assert seen.ids.tolist().count(sampler.renderer.format.stop_ids[0]) == 2
    assert last.text == "Answer: done"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<tool_call>{]</tool_call>", "error: not JSON"),
        ("<tool_call>", "error: a <tool_call> that is not closed"),
        (call("repeat", text="x") * 17, "error: 17 calls, more than 16"),
        (call("repeal", text="x"), "error: there is no tool 'repeal'; there is repeat, fail, hang, break"),
        (call("repeat"), "error: repeat without 'text'"),
        (call("repeat", text=3), "error: repeat.text is 3, not of type string"),
        (call("fail", text="x"), "error: ZeroDivisionError: no such luck"),
        (call("hang", text="x"), "error: no result within 0.01 s"),
        (call("repeat", text="ab" * 200), "ab" * 45 + "... (cut)"),
    ],
)  # fmt: skip
def test_whatever_a_call_does_is_an_observation_and_the_rollout_goes_on(text: str, said: str) -> None:
    found, _ = draw(once(text), settings=replace(SETTINGS, max_new_tokens=1200), max_result_characters=99)
    for attempt in found.values():
        assert replies(attempt)[0].startswith(said) and attempt.last.text == "Answer: done"
        assert attempt.verdict is None and attempt.turns[1].num_failed == said.startswith("error")


def test_thoughts_about_calls_are_no_calls_and_words_beside_calls_are_kept() -> None:
    found, _ = draw(once(f"<think>{call('fail', text='x')}</think>well {call('repeat', text='x')}"))
    assert replies(found[0, 0]) == ["x"] and found[0, 0].transcript[0]["content"].endswith("</think>well")
    found, _ = draw(once(f"<think>{call('fail', text='x')}</think>well"))
    assert found[0, 0].transcript == () and len(found[0, 0].turns) == 1


def test_a_policy_that_calls_for_ever_is_cut_after_its_last_turn() -> None:
    found, sampler = draw(lambda prompt, seed: call("repeat", text="x"), max_turns=3)
    for attempt in found.values():
        assert len(attempt.completions) == 3 and attempt.last.finish_reason == "stop"
        rollout = attempt.conclude(attempt.verdict or Outcome("scored", 1.0))
        assert rollout.is_cut and (rollout.outcome.status, rollout.outcome.fault) == ("truncated", "policy")
        assert "max_turns" in rollout.outcome.why
    assert len(sampler.passes) == 3


def test_the_cap_on_tokens_is_of_all_turns_together() -> None:
    def script(prompt: str, seed: int) -> str:
        if "Tool:\n" in prompt:
            return "x" * 300
        return call("repeat", text="y" * (40 if "User:\n1" in prompt else 1))

    found, sampler = draw(script, settings=replace(SETTINGS, max_new_tokens=160))
    firsts = {key: len(attempt.completions[0].ids) for key, attempt in found.items()}
    assert sampler.caps == [160, 160 - min(firsts.values())]
    for key, attempt in found.items():
        last = attempt.last
        assert attempt.num_drawn == 160 and len(last.ids) == 160 - firsts[key]
        assert last.finish_reason == "length" and last.text == "x" * len(last.ids)
        assert last.sampler_logprobs is not None and len(last.sampler_logprobs) == len(last.ids)


def test_what_tools_say_and_the_context_are_bounded() -> None:
    script = once(call("repeat", text="abcdefgh" * 4))
    found, _ = draw(script, max_observation_tokens=20)
    assert all("tokens of tools, more than 20" in attempt.verdict.why for attempt in found.values())
    assert all(len(attempt.turns) == 1 for attempt in found.values())
    whole, _ = draw(script)
    length = len(whole[0, 0].last.prompt_ids)
    found, _ = draw(script, context_tokens=length)
    assert "context" in found[0, 0].verdict.why
    found, sampler = draw(script, context_tokens=length + 5)
    assert sampler.caps[1] == 5 and found[0, 0].last.finish_reason == "length"


def test_prompts_of_unequal_length_share_a_pass_only_where_all_fit_the_context() -> None:
    def script(prompt: str, seed: int) -> str:
        return "end" if "Tool:\n" in prompt else call("repeat", text="z" * (60 if "User:\n1" in prompt else 1))

    whole, _ = draw(script)
    longest = max(len(attempt.last.prompt_ids) for attempt in whole.values())
    found, sampler = draw(script, context_tokens=longest + 10)
    assert len(sampler.passes) == 3 and sampler.caps[2] == 10
    assert all(attempt.last.text == "end" for attempt in found.values())


def test_a_draw_depends_on_problem_sample_and_turn_and_on_nothing_beside_it() -> None:
    def script(prompt: str, seed: int) -> str:
        return f"{seed % 1000}" if prompt.count("Tool:\n") == 2 else call("repeat", text=str(seed % 7))

    found, sampler = draw(script)
    assert len({seed for seeds in sampler.passes[1:] for seed in seeds}) == 8
    alone, _ = draw(script, problems=make_problems(1))
    for sample in range(2):
        for one, other in zip(found[0, sample].turns, alone[0, sample].turns, strict=True):
            assert np.array_equal(one.ids, other.ids)


def test_a_tool_that_breaks_is_the_harness_failing_and_stops_where_it_is_often() -> None:
    renderer = make_renderer()
    sampler = ScriptedSampler(renderer, once(call("break", text="x")))
    drawing = Drawing(sampler, LengthScorer(), SETTINGS, environment=make_environment(renderer))
    with pytest.raises(Exception, match="the sandbox is away"):
        draw_groups(make_problems(2), [1, 2], drawing)


def test_scorers_see_the_conversation_and_are_not_asked_about_what_was_cut() -> None:
    class Seeing(LengthScorer):
        def score(self, items: Any) -> list[Outcome]:
            assert all(problem.messages[-1]["role"] == "user" for problem, _ in items)
            self.seen = [completion.transcript for _, completion in items]
            return super().score(items)

    renderer, scorer = make_renderer(), Seeing()
    script = once(call("repeat", text="x"))

    def stubborn(prompt: str, seed: int) -> str:
        return call("repeat", text="x") if "User:\n1" in prompt else script(prompt, seed)

    drawing = Drawing(ScriptedSampler(renderer, stubborn), scorer, SETTINGS, environment=make_environment(renderer))
    first, second = draw_groups(make_problems(2), [1, 2], drawing)
    assert scorer.asked == ["p0", "p0"] and second.rewards == [0.0, 0.0]
    assert [message["role"] for message in scorer.seen[0]] == ["assistant", "tool"]
    assert scorer.seen[0][0]["tool_calls"][0]["function"] == {"name": "repeat", "arguments": {"text": "x"}}
    assert first.rollouts[0].last.transcript == () and not first.rollouts[0].is_cut


def test_tools_that_are_not_there_and_stop_strings_are_refused_before_anything_is_drawn() -> None:
    offered = [{"type": "function", "function": {"name": "repeal", "parameters": {"type": "object"}}}]
    with pytest.raises(DataError, match="repeal") as caught:
        draw(once("x"), problems=[Problem("p0", [{"role": "user", "content": "0"}], tools=offered)])
    assert "did you mean 'repeat'?" in caught.value.cure
    with pytest.raises(RecipeError, match="stop string"):
        draw(once("x"), settings=replace(SETTINGS, stop_strings=("x",)))
