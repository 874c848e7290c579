"""A reward model opened for a scorer: its weights loaded, its chat format at hand."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from posttrain.chat.rendering import Renderer, build_chat_format
from posttrain.chat.templates import DEFAULT_DATE, PLAIN_TEMPLATE, TemplateProgram, build_template_renderer
from posttrain.core.records import Completion, Problem
from posttrain.kernels.readings import Ids, Reading
from posttrain.models.reward_models import LoadedRewardModel, load_reward_model
from posttrain.models.reward_scoring import RewardScoring
from posttrain.models.text_tokenizer import HuggingFaceTextTokenizer
from posttrain.pipeline.scorer_settings import LearnedSettings
from posttrain.scorers.learned import Floats, OpenedModel, ScoresCompletions
from posttrain.training.distributed import find_device


def open_for_scoring(folder: Path, settings: LearnedSettings) -> OpenedModel:
    """Return a reward model that is ready to score, loaded now; members that are not asked for do not score.

    Raises:
        ModelError: The folder holds no reward model.
    """
    model = load_reward_model(folder, dtype=settings.dtype, device=find_device())
    tokenizer = HuggingFaceTextTokenizer(model.tokenizer)
    facts = model.facts
    asked = [number for number in settings.members or () if number < facts.num_members]
    scoring = RewardScoring(model, settings.micro_batch_tokens, asked or None)
    return OpenedModel(
        scoring=scoring,
        outputs=facts.outputs,
        encode=_build_encoder(model, tokenizer),
        decode=tokenizer.decode,
        length_slope=facts.length_slope,
        mean_length=facts.mean_length,
        separator=facts.separator,
        stop_ids=tuple(model.manifest.stop_ids) if model.manifest is not None else (),
        members=scoring.members,
        is_own=_build_check(tokenizer),
    )


class SharedModels:
    """Opens each reward model once for several scorers: what all members give a completion is computed once.

    A study asks one ensemble for its mean, its worst member and each member alone, of the same answers.
    """

    def __init__(self) -> None:
        self._opened: dict[tuple[Path, str, int], OpenedModel] = {}

    def open(self, folder: Path, settings: LearnedSettings) -> OpenedModel:
        """Return a reward model with all of its members, as it was opened before where it was."""
        key = (folder, settings.dtype, settings.micro_batch_tokens)
        if key not in self._opened:
            opened = open_for_scoring(folder, settings.model_copy(update={"members": None}))
            self._opened[key] = replace(opened, scoring=RememberedScoring(opened.scoring))
        return self._opened[key]


class RememberedScoring:
    """Scores completions, and remembers what it said last (`scorers.learned.ScoresCompletions`).

    Whoever asks for the same again in the next call gets the same bits without a pass.
    """

    def __init__(self, scoring: ScoresCompletions) -> None:
        self._scoring = scoring
        self._last: dict[bytes, list[Floats]] = {}

    def score(self, readings: Sequence[Reading]) -> list[list[Floats]]:
        """Return one array for each completion of each reading."""
        names = [_name_reading(reading) for reading in readings]
        if any(name not in self._last for name in names):
            self._last = dict(zip(names, self._scoring.score(readings), strict=True))
        return [self._last[name] for name in names]


def _name_reading(reading: Reading) -> bytes:
    digest = hashlib.sha256()
    for values in (reading.prompt, *reading.completions, *reading.places):
        numbers = np.asarray(values, dtype=np.int64)
        digest.update(len(numbers).to_bytes(8, "little"))
        digest.update(numbers.tobytes())
    return digest.digest()


def _build_check(tokenizer: HuggingFaceTextTokenizer) -> Callable[[Problem, Completion], bool]:
    """Return what tells whether ids are of this tokenizer: the text that they are of is in what they decode to.

    Prompts are asked too: two tokenizers may share the ids of a short answer.
    """

    def is_own(problem: Problem, completion: Completion) -> bool:
        asked = problem.messages[-1].get("content") if problem.messages else None
        sides = [(completion.text, completion.ids), (asked, completion.prompt_ids)]
        return all(
            _squeeze(text) in _squeeze(tokenizer.decode(ids.tolist())) for text, ids in sides if isinstance(text, str)
        )

    return is_own


def _squeeze(text: str) -> str:
    """Return a text without white space, which templates and decoders may change."""
    return "".join(text.split())


def _build_encoder(
    model: LoadedRewardModel, tokenizer: HuggingFaceTextTokenizer
) -> Callable[[Sequence[tuple[Problem, str]]], list[tuple[Ids, Ids]]]:
    """Return what renders a problem and a text as its answer by the chat format that the model was trained with."""

    def encode(items: Sequence[tuple[Problem, str]]) -> list[tuple[Ids, Ids]]:
        with _open_renderer(model, tokenizer) as renderer:
            stop = renderer.format.stop_ids[0]
            prompts = renderer.render_prompts([(problem.messages, problem.tools) for problem, _ in items])
            answers = [tokenizer.encode_with_offsets(text, specials_as_text=True)[0] for _, text in items]
        found = [np.array([*ids, stop], dtype=np.int32) for ids in answers]
        return list(zip(prompts, found, strict=True))

    return encode


@contextmanager
def _open_renderer(model: LoadedRewardModel, tokenizer: HuggingFaceTextTokenizer) -> Iterator[Renderer]:
    chat = model.manifest.chat if model.manifest is not None else {}
    program = TemplateProgram(
        model.chat_template or PLAIN_TEMPLATE,
        {**tokenizer.template_tokens, **chat.get("template_arguments", {})},
        chat.get("date", DEFAULT_DATE),
    )
    template_renderer = build_template_renderer(program)
    eos = model.tokenizer.eos_token_id
    try:
        chat_format = build_chat_format(
            program,
            template_renderer,
            tokenizer,
            eos_ids=[] if eos is None else [eos],
            generation_eos_ids=model.manifest.stop_ids if model.manifest is not None else [],
        )
        yield Renderer(tokenizer, chat_format, template_renderer)
    finally:
        template_renderer.close()
