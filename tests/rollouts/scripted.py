"""A sampler that writes what a script says, one token a character or byte, and an environment with a few tools."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from posttrain.chat.rendering import Renderer
from posttrain.core.records import Completion, Problem, TokenizedProblem
from posttrain.core.sampling import SamplingSettings, derive_sample_seed
from posttrain.rollouts.environments import Environment, EnvironmentSettings
from posttrain.rollouts.tools import TimedFunction, Tool, ToolBrokenError, take_text
from tests.chat.formats import FORMS, build_renderer, build_tokenizer

PLAIN = next(index for index, form in enumerate(FORMS) if form.name == "plain")
SETTINGS = SamplingSettings(max_new_tokens=400, temperature=1.0, num_samples=2)


def make_renderer(kind: str = "bytes") -> Renderer:
    """A renderer of the plain template."""
    return build_renderer(build_tokenizer(kind, PLAIN), FORMS[PLAIN].template, {})


def call(name: str, **arguments: Any) -> str:
    """A call as the plain template writes it."""
    import json

    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


def spell(kind: str, text: str) -> list[int]:
    """The ids of a text, a token for each character, or each byte where a tokenizer puts blanks before texts."""
    tokenizer = build_tokenizer(kind, PLAIN)
    if kind in ("legacy", "metaspace"):
        return tokenizer.convert_tokens_to_ids([f"<0x{byte:02X}>" for byte in text.encode()])
    return [token for sign in text for token in tokenizer.encode(sign, add_special_tokens=False)]


class ScriptedSampler:
    """Writes what `script(prompt, seed)` says, as `spell` has it, and then the stop token.

    Nobody who encodes its texts gets its ids.
    """

    policy_hash = "policy"

    def __init__(self, renderer: Renderer, script: Callable[[str, int], str], kind: str = "bytes") -> None:
        self.renderer = renderer
        self.kind = kind
        self.script = script
        self.passes: list[list[int]] = []
        """The seeds of each call."""
        self.caps: list[int] = []

    def sample(self, problems: Sequence[Problem], settings: SamplingSettings, seeds: Sequence[int]) -> Any:
        self.passes.append(list(seeds))
        self.caps.append(settings.max_new_tokens)
        for place in reversed(range(len(problems))):
            for sample in range(settings.num_samples):
                seed = derive_sample_seed(seeds[place], sample)
                yield place, self._write(problems[place], sample, settings.max_new_tokens, seed)

    def _write(self, problem: Problem, sample: int, most: int, seed: int) -> Completion:
        texts = self.renderer.tokenizer
        if isinstance(problem, TokenizedProblem):
            prompt = list(problem.prompt_ids)
        else:
            prompt = self.renderer.render_prompts([(problem.messages, problem.tools)])[0].tolist()
        text = self.script(texts.decode(prompt), seed)
        spelled = spell(self.kind, text)
        ids = np.array([*spelled, self.renderer.format.stop_ids[0]], dtype=np.int32)[:most]
        has_ended = len(ids) > len(spelled)
        logprobs = -np.random.default_rng(seed).random(len(ids)).astype(np.float32)
        return Completion(
            problem.problem_id,
            sample,
            np.array(prompt, dtype=np.int32),
            ids,
            texts.decode(ids[: len(spelled)].tolist()),
            "stop" if has_ended else "length",
            "policy",
            seed,
            logprobs,
            logprobs,
        )


def _fail(arguments: Mapping[str, Any]) -> str:
    raise ZeroDivisionError("no such luck")


def _break(arguments: Mapping[str, Any]) -> str:
    raise ToolBrokenError("the sandbox is away")


def _sleep(text: str) -> str:
    import time

    time.sleep(0.3)
    return text


def make_environment(renderer: Renderer, *, context_tokens: int | None = None, **settings: Any) -> Environment:
    """Tools that repeat, fail, hang and break."""
    text = take_text(text="what")
    tools = [
        Tool("repeat", "", text, lambda arguments: arguments["text"]),
        Tool("fail", "", text, _fail),
        Tool("hang", "", text, TimedFunction(_sleep, 0.01)),
        Tool("break", "", text, _break),
    ]
    chosen = EnvironmentSettings(tools=["any"], **settings)
    return Environment(tools, chosen, renderer, content_hash="environment", context_tokens=context_tokens)
