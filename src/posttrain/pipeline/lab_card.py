"""What a model can do in the lab, skill by skill: pass@1, pass@8 and pass@64, safety, sycophancy, style.

A base is asked as the corpus asks (`prose`), any other model through its chat format. Where pass@8 is near
pass@1 there is nothing to sharpen, and where pass@64 is 0 nothing to find: the card says what later stages
can still gain.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from posttrain.core.config import suggest
from posttrain.core.errors import RecipeError
from posttrain.core.protocols import Progress, Scorer
from posttrain.core.records import Completion, Outcome, Problem
from posttrain.core.sampling import Sampler, SamplingSettings
from posttrain.core.seeds import derive_seed
from posttrain.lab.demonstrations import STYLED_FORMS
from posttrain.lab.gold import CLAIMED, COMPLIED, FORMAT, GOLD, REFUSED
from posttrain.lab.prose import STOPS, cut_reply, write_prompt
from posttrain.lab.questions import Question, Skill
from posttrain.lab.source import question_row
from posttrain.lab.splits import SPLIT_PERCENT
from posttrain.lab.style import read_style
from posttrain.lab.tasks import SKILLS, generate_questions
from posttrain.lab.world import WORLD_SEED, build_world
from posttrain.models.loading import load_policy
from posttrain.pipeline.sampling import build_sampler
from posttrain.pipeline.scorers import ScorerContext, build_scorer
from posttrain.pipeline.talking import find_model, open_policy_renderer
from posttrain.statistics.pass_at_k import average_pass_at_k
from posttrain.training.distributed import find_device

PASS_AT = (1, 8, 64)


@dataclass(frozen=True, slots=True)
class CardSettings:
    """What is drawn for a card: questions of each skill, samples of each question, and how.

    `prose` asks as the corpus does; `split` is where questions come from.
    """

    prose: bool = False
    split: str = "held_out"
    num_questions: int = 24
    num_samples: int = 64
    max_new_tokens: int = 112
    temperature: float = 1.0
    seed: int = 0


@dataclass(slots=True)
class _Tally:
    """What the samples of one skill come to."""

    counts: list[tuple[int, int]] = field(default_factory=list)
    parts: dict[str, list[float]] = field(default_factory=dict)
    contents: set[str] = field(default_factory=set)
    num_stopped: int = 0

    def add(self, question: Question, outcomes: Sequence[Outcome], completions: Sequence[Completion]) -> None:
        """Take in one question's samples."""
        self.contents.add(question.content)
        self.counts.append((len(outcomes), sum(outcome.value >= 1 for outcome in outcomes)))
        for outcome in outcomes:
            for name, value in outcome.parts.items():
                self.parts.setdefault(name, []).append(value)
        self.num_stopped += sum(completion.finish_reason == "stop" for completion in completions)


def measure_card(model: str, settings: CardSettings, progress: Progress) -> dict[str, Any]:
    """Return a model's card: `skills` (pass@k, form, stop rate), `contents`, `groups`, `safety`, `pressure`, `style`.

    `contents` counts what the questions of a skill are about: those that share a content are not independent.

    Args:
        model: `lab:base`, a folder, an artifact, or a Hub id.
        settings: What is drawn.
        progress: Shows how far it has come.

    Raises:
        RecipeError: There is no such split.
        ModelError: The model cannot be used.
        SandboxError: Programs cannot be run in isolation here.
    """
    if settings.split not in SPLIT_PERCENT:
        raise RecipeError(
            f"found {settings.split!r}",
            expected="one of " + ", ".join(SPLIT_PERCENT),
            cure=suggest(settings.split, SPLIT_PERCENT),
            place="--split",
        )
    policy = load_policy(find_model(model), dtype="bfloat16", device=find_device())
    with open_policy_renderer(policy, is_raw=settings.prose) as renderer:
        sampler, notes = build_sampler(policy, renderer)
        for note in notes:
            progress.note(note)
        try:
            return _measure(model, sampler, settings, progress)
        finally:
            sampler.close()


def _measure(model: str, sampler: Sampler, settings: CardSettings, progress: Progress) -> dict[str, Any]:
    scorer = build_scorer({"type": "lab", "takes_prose": settings.prose}, ScorerContext())
    world = build_world()
    tallies: dict[str, _Tally] = {}
    replies: list[str] = []
    progress.start(f"card of {Path(model).name}", len(SKILLS), unit="skill")
    try:
        for skill in SKILLS:
            questions = list(generate_questions([skill], world, settings.split, settings.num_questions, WORLD_SEED))
            tally = tallies[skill.name] = _Tally()
            drawn = _draw(questions, sampler, scorer, settings, skill)
            for question, (outcomes, completions) in zip(questions, drawn, strict=True):
                tally.add(question, outcomes, completions)
                replies += [completion.text for completion in completions] if questions[0].form in STYLED_FORMS else []
            progress.advance(1, pass_at_1=average_pass_at_k(tally.counts, 1))
    finally:
        progress.finish()
    return _sum_up(tallies, replies, settings)


def _draw(
    questions: Sequence[Question], sampler: Sampler, scorer: Scorer, settings: CardSettings, skill: Skill
) -> Iterable[tuple[list[Outcome], list[Completion]]]:
    """Yield the outcomes and completions of each question in turn."""
    problems = [_build_problem(question, index, settings) for index, question in enumerate(questions)]
    drawing = SamplingSettings(
        max_new_tokens=settings.max_new_tokens,
        temperature=settings.temperature,
        num_samples=settings.num_samples,
        stop_strings=STOPS if settings.prose else (),
    )
    seeds = [derive_seed(settings.seed, "lab card", skill.name, index) for index in range(len(problems))]
    drawn: list[list[Completion]] = [[] for _ in problems]
    for index, completion in sampler.sample(problems, drawing, seeds):
        drawn[index].append(completion)
    for question, problem, completions in zip(questions, problems, drawn, strict=True):
        completions.sort(key=lambda completion: completion.sample_index)
        if settings.prose:
            completions = [_cut(question, completion) for completion in completions]
        yield scorer.score([(problem, completion) for completion in completions]), completions


def _cut(question: Question, completion: Completion) -> Completion:
    """Return a base's completion as the reply that it begins with: it has ended if more follows."""
    reply = cut_reply(question, completion.text)
    goes_on = len(reply) < len(completion.text.strip())
    return replace(completion, text=reply, finish_reason="stop" if goes_on else completion.finish_reason)


def _build_problem(question: Question, index: int, settings: CardSettings) -> Problem:
    columns = {key: value for key, value in question_row(question).items() if key not in ("prompt", "tools")}
    messages, tools = question.messages, list(question.tools) or None
    if settings.prose:
        messages = [{"role": "user", "content": write_prompt(question)}]
    return Problem(f"{question.skill}-{index}", messages, columns, tools, question.content)


def _sum_up(tallies: Mapping[str, _Tally], replies: Sequence[str], settings: CardSettings) -> dict[str, Any]:
    skills = {name: _describe(tally, settings) for name, tally in tallies.items()}
    groups: dict[str, list[str]] = {}
    for skill in SKILLS:
        groups.setdefault(skill.group, []).append(skill.name)
    return {
        "settings": {name: getattr(settings, name) for name in settings.__slots__},
        "skills": skills,
        "contents": {name: len(tally.contents) for name, tally in tallies.items()},
        "groups": {
            group: {
                key: _mean([skills[name][key] for name in names if key in skills[name]]) for key in skills[names[0]]
            }
            for group, names in groups.items()
        },
        "safety": {
            "refuses_forbidden": skills["forbidden"][REFUSED],
            "complies_with_forbidden": skills["forbidden"][COMPLIED],
            "refuses_look_alikes": skills["look_alike"][REFUSED],
        },
        "pressure": {name: skills[name][CLAIMED] for name in ("claim", "doubted_when_right")},
        "style": _describe_style(replies),
    }


def _describe(tally: _Tally, settings: CardSettings) -> dict[str, float]:
    samples = min(drawn for drawn, _ in tally.counts)
    figures = {f"pass@{k}": average_pass_at_k(tally.counts, k) for k in PASS_AT if k <= samples}
    if not settings.prose:  # a base goes on with its document after a reply
        figures["stop_rate"] = tally.num_stopped / sum(drawn for drawn, _ in tally.counts)
    figures |= {
        name: _mean(tally.parts[name]) for name in (FORMAT, GOLD, CLAIMED, REFUSED, COMPLIED) if name in tally.parts
    }
    return figures


def _describe_style(replies: Sequence[str]) -> dict[str, float]:
    heard = [read_style(text) for text in replies]
    return {
        "polite": _mean([float(each.num_polite > 0) for each in heard]),
        "rude": _mean([float(each.num_rude > 0) for each in heard]),
        "hedged": _mean([float(each.num_hedges > 0) for each in heard]),
        "boasting": _mean([float(each.num_boasts > 0) for each in heard]),
        "fillers": _mean([float(each.num_fillers) for each in heard]),
        "words": _mean([float(len(text.split())) for text in replies]),
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def format_card(card: Mapping[str, Any]) -> str:
    """Return a card as Markdown tables."""
    lines = ["| skill | contents | pass@1 | pass@8 | pass@64 | form | stops |", "|" + " --- |" * 7]
    for group, figures in card["groups"].items():
        names = [skill.name for skill in SKILLS if skill.group == group]
        lines.append(_format_row(f"**{group}**", sum(card["contents"][name] for name in names), figures))
        lines += [_format_row(name, card["contents"][name], card["skills"][name]) for name in names]
    lines += ["", "| measure | share |", "| --- | --- |"]
    named = {
        "refuses what is forbidden": card["safety"]["refuses_forbidden"],
        "tells a step of what is forbidden": card["safety"]["complies_with_forbidden"],
        "refuses look-alikes": card["safety"]["refuses_look_alikes"],
        "says what a user wrongly claimed": card["pressure"]["claim"],
        "gives in when wrongly doubted": card["pressure"]["doubted_when_right"],
        **{f"style: {name}": card["style"][name] for name in ("polite", "rude", "hedged", "boasting")},
    }
    lines += [f"| {name} | {value:.1%} |" for name, value in named.items()]
    lines += ["", f"Mean words of a reply: {card['style']['words']:.1f}; fillers: {card['style']['fillers']:.2f}."]
    return "\n".join(lines).replace("%", " %") + "\n"


def _format_row(name: str, num_contents: int, figures: Mapping[str, float]) -> str:
    cells = [
        f"{figures[key]:.1%}" if key in figures else "" for key in ("pass@1", "pass@8", "pass@64", FORMAT, "stop_rate")
    ]
    return f"| {name} | {num_contents} | " + " | ".join(cells) + " |"
