"""A model that answers: loaded from a name, with the renderer and the sampler that belong to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from posttrain.chat.rendering import Renderer, build_chat_format
from posttrain.chat.stops import find_stop_ids
from posttrain.chat.templates import DEFAULT_DATE, PLAIN_TEMPLATE, TemplateProgram, build_template_renderer
from posttrain.chat.text_pieces import TextPieces
from posttrain.chat.text_prompts import TextRenderer
from posttrain.core.config import suggest
from posttrain.core.errors import RecipeError
from posttrain.core.records import Completion, Message, Problem
from posttrain.core.sampling import Sampler, SamplingSettings
from posttrain.models.loaded_policy import LoadedPolicy
from posttrain.models.loading import load_policy, read_context_tokens, resolve_model
from posttrain.models.text_tokenizer import HuggingFaceTextTokenizer
from posttrain.models.validation import check_links
from posttrain.models.weights import find_stored_dtype
from posttrain.pipeline.policies import find_lab_model
from posttrain.pipeline.roots import declare_roots
from posttrain.pipeline.sampling import build_sampler
from posttrain.pipeline.scorers import build_context
from posttrain.pipeline.tool_settings import find_tool_plugins
from posttrain.pipeline.tools import build_environment
from posttrain.rollouts.attempts import Attempt, draw_attempts
from posttrain.rollouts.environments import Environment, EnvironmentSettings, ToolReplies
from posttrain.samplers.local import EngineOptions, LocalSampler
from posttrain.samplers.pool import OnTokens
from posttrain.training.distributed import find_device

DTYPES = ("auto", "bfloat16", "float32")
_BASE_FOLDER = "base"


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """Which model is to answer, and how it is run.

    Args:
        model: A Hub id, a folder in Hugging Face format, an artifact's folder, or `lab:base`.
        dtype: `bfloat16`, `float32`, or `auto`: what the weights are stored in.
        device: Where it computes; None is the GPU if there is one, else the CPU.
        is_raw: Prompts are plain text, without a chat template.
        max_rows: Sequences at once, >= 1; None is the engine's own default.
        cache_gb: Gigabytes of keys and values, > 0; None is the engine's own default.
        tools: Names and references of tools that it may call, as a recipe writes them; paths start here.
        max_turns: Turns that it may take in one answer.
        allow_unsafe: Whether programs may run without a sandbox where none passes its self-check.
    """

    model: str
    dtype: str = "auto"
    device: str | None = None
    is_raw: bool = False
    max_rows: int | None = None
    cache_gb: float | None = None
    tools: Sequence[str] = ()
    max_turns: int = 8
    allow_unsafe: bool = False

    @property
    def engine_options(self) -> EngineOptions:
        """What the engine may take."""
        given: dict[str, Any] = {}
        if self.max_rows is not None:
            given["max_rows"] = self.max_rows
        if self.cache_gb is not None:
            given["cache_bytes"] = int(self.cache_gb * 1e9)
        return EngineOptions(**given)


@dataclass(frozen=True, slots=True)
class Talker:
    """A model ready to answer. Made by `open_talker`, read by whoever draws from it.

    `context_tokens` is the longest row that the model takes, None for no limit; `notes` are for the user.
    """

    policy_hash: str
    dtype: str
    renderer: Renderer
    sampler: Sampler
    context_tokens: int | None
    notes: list[str]
    environment: Environment | None = None

    def count_prompt_tokens(self, messages: Sequence[Message]) -> int:
        """Return how many tokens a prompt has, tools and generation prompt included."""
        offered = Problem("", [])
        if self.environment is not None:
            offered = self.environment.offer(offered)
        [ids] = self.renderer.render_prompts([(messages, offered.tools)])
        return len(ids)

    def watch(self, on_tokens: OnTokens | None) -> None:
        """Have tokens told as they are drawn, where the sampler can; None ends it."""
        if isinstance(self.sampler, LocalSampler):
            self.sampler.on_tokens = on_tokens

    def answer(
        self, problem: Problem, settings: SamplingSettings, seed: int, show: Callable[[str], None]
    ) -> Completion:
        """Return one completion, having shown its text piece by piece while it was drawn.

        A sampler that cannot be watched shows the whole text at its end.
        """
        return self.attempt(problem, settings, seed, show).last

    def attempt(self, problem: Problem, settings: SamplingSettings, seed: int, show: Callable[[str], None]) -> Attempt:
        """Return one attempt, having shown what was said in it piece by piece: what tools replied too."""
        shown = _ShownTurns(lambda: self._build_pieces(settings), show)
        self.watch(lambda index, sample_index, ids: show(shown.pieces.push(ids)))
        try:
            with closing(
                draw_attempts([problem], [seed], self.sampler, settings, self.environment, shown)  # type: ignore[type-var]
            ) as drawn:
                _, attempt = next(drawn)
                show(shown.pieces.finish(attempt.last.text))
        finally:
            self.watch(None)
        return attempt

    def _build_pieces(self, settings: SamplingSettings) -> TextPieces:
        own = () if settings.ignore_eos else self.renderer.format.stop_ids
        return TextPieces(
            self.renderer.tokenizer.decode,
            stop_ids=[*own, *settings.stop_ids],
            stop_strings=settings.stop_strings,
        )


class _ShownTurns:
    """Shows what tools replied, and begins anew for the turn after it (`attempts.ReplyBook`)."""

    def __init__(self, build_pieces: Callable[[], TextPieces], show: Callable[[str], None]) -> None:
        self.pieces = build_pieces()
        self._build_pieces = build_pieces
        self._show = show

    def find(self, completion: Completion) -> None:
        """Know nothing from before."""

    def keep(self, completion: Completion, replies: ToolReplies) -> None:
        """Show replies, each in a line of its own or more."""
        self._show(self.pieces.finish(completion.text))
        for message in replies.messages:
            self._show(f"\n[{message['name']}] {message['content']}")
        self._show("\n")
        self.pieces = self._build_pieces()


@contextmanager
def open_talker(choice: ModelChoice) -> Iterator[Talker]:
    """Yield a model that answers; template processes and buffers end with the context.

    Raises:
        RecipeError: No such precision or device.
        ModelError: The model cannot be found, loaded or trusted.
        TemplateError: Its chat template cannot be used.
    """
    device = check_device(choice.device)
    check_dtype(choice.dtype)
    folder = find_model(choice.model)
    dtype = choose_dtype(folder) if choice.dtype == "auto" else choice.dtype
    policy = load_policy(folder, dtype=dtype, device=device)
    with open_policy_renderer(policy, is_raw=choice.is_raw) as renderer:
        sampler, notes = build_sampler(policy, renderer, options=choice.engine_options)
        if policy.chat_template is None and not choice.is_raw:
            notes = [*notes, "the model has no chat template: the plain one is used"]
        policy_hash = policy.hash
        context_tokens = read_context_tokens(folder)
        environment = build_choice_environment(choice, renderer, context_tokens) if choice.tools else None
        del policy  # the engine has weights of its own
        try:
            yield Talker(policy_hash, dtype, renderer, sampler, context_tokens, notes, environment)
        finally:
            sampler.close()


def build_choice_environment(choice: ModelChoice, renderer: Renderer, context_tokens: int | None) -> Environment:
    """Return what replies to calls in a conversation.

    Raises:
        RecipeError: No such tool.
        TemplateError: The chat template cannot show tools.
    """
    place = "--tools"
    settings = EnvironmentSettings(tools=list(choice.tools), max_turns=choice.max_turns, max_observation_tokens=8192)
    roots = declare_roots(Path.cwd() / "chat.yaml")
    context = build_context(roots, find_tool_plugins(settings, roots, place), allow_unsafe=choice.allow_unsafe)
    context = replace(context, place=place)
    return build_environment(settings, renderer, context, context_tokens=context_tokens)


def find_model(name: str) -> Path:
    """Return the folder of a model that a command names: `lab:base`, a Hub id, a folder, an artifact.

    Raises:
        RecipeError: The lab has no such model.
        ModelError: There is no such model, or its folder leads elsewhere.
    """
    if name.startswith("lab:"):
        return find_lab_model(name)
    folder = resolve_model(name, root=Path.cwd())
    check_links(folder)
    return folder


@contextmanager
def open_policy_renderer(policy: LoadedPolicy, *, is_raw: bool, template: str | None = None) -> Iterator[Renderer]:
    """Yield the renderer of a policy: its own template as it was trained with, else the plain one, or plain text.

    Args:
        policy: Its tokenizer, stop tokens and template.
        is_raw: Prompts are plain text.
        template: A template in the place of the policy's own.

    Raises:
        TemplateError: The template cannot be rendered, or no stop token can be found.
    """
    tokenizer = HuggingFaceTextTokenizer(policy.tokenizer)
    if is_raw:
        stop_ids = find_stop_ids(policy.tokenizer_eos_ids, policy.generation_eos_ids, ())
        yield TextRenderer(tokenizer, dict(tokenizer.template_tokens), stop_ids)
        return
    chat = policy.manifest.chat if policy.manifest is not None else {}
    program = TemplateProgram(
        template or policy.chat_template or PLAIN_TEMPLATE,
        {**tokenizer.template_tokens, **chat.get("template_arguments", {})},
        chat.get("date", DEFAULT_DATE),
    )
    template_renderer = build_template_renderer(program)
    try:
        chat_format = build_chat_format(
            program,
            template_renderer,
            tokenizer,
            eos_ids=policy.tokenizer_eos_ids,
            generation_eos_ids=policy.generation_eos_ids,
        )
        yield Renderer(tokenizer, chat_format, template_renderer)
    finally:
        template_renderer.close()


def choose_dtype(folder: Path) -> str:
    """Return the precision that a model's weights are stored in."""
    base = folder / _BASE_FOLDER
    return find_stored_dtype(base if base.is_dir() else folder)


def check_dtype(name: str) -> None:
    """Refuse a precision that is none.

    Raises:
        RecipeError: It is none of `DTYPES`.
    """
    if name not in DTYPES:
        raise RecipeError(f"found {name!r}", expected=" or ".join(DTYPES), cure=suggest(name, DTYPES), place="--dtype")


def check_device(name: str | None) -> str:
    """Return the device that is meant.

    Raises:
        RecipeError: There is no such device.
    """
    if name is None:
        return find_device()
    cure = "leave --device out: the GPU is taken if there is one, else the CPU"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise RecipeError(
            f"found {name!r}", expected="cpu, cuda or cuda:<number>", cure=cure, place="--device"
        ) from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise RecipeError(
            f"{name}, and this machine shows {torch.cuda.device_count()} GPUs to torch",
            expected="a device that is there",
            cure=cure,
            place="--device",
        )
    return name
