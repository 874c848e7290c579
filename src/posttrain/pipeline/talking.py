"""A model that answers: loaded from a name, with the renderer and the sampler that belong to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
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
from posttrain.pipeline.sampling import build_sampler
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
    """

    model: str
    dtype: str = "auto"
    device: str | None = None
    is_raw: bool = False
    max_rows: int | None = None
    cache_gb: float | None = None

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

    def count_prompt_tokens(self, messages: Sequence[Message]) -> int:
        """Return how many tokens a prompt has, generation prompt included."""
        [ids] = self.renderer.render_prompts([(messages, None)])
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
        pieces = self._build_pieces(settings)
        self.watch(lambda index, sample_index, ids: show(pieces.push(ids)))
        try:
            with closing(self.sampler.sample([problem], settings, [seed])) as drawn:  # type: ignore[type-var]
                _, completion = next(drawn)
                show(pieces.finish(completion.text))
        finally:
            self.watch(None)
        return completion

    def _build_pieces(self, settings: SamplingSettings) -> TextPieces:
        own = () if settings.ignore_eos else self.renderer.format.stop_ids
        return TextPieces(
            self.renderer.tokenizer.decode,
            stop_ids=[*own, *settings.stop_ids],
            stop_strings=settings.stop_strings,
        )


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
        del policy  # the engine has weights of its own
        try:
            yield Talker(policy_hash, dtype, renderer, sampler, read_context_tokens(folder), notes)
        finally:
            sampler.close()


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
