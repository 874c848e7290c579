"""The lab in the pipeline: its scorer, its models by name, the card, the build, the files."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from posttrain.core.errors import RecipeError, RefusedError
from posttrain.core.progress import SilentProgress
from posttrain.core.records import Completion, Problem
from posttrain.lab.demonstrations import write_reply
from posttrain.lab.questions import Question, Reply, Skill, ask
from posttrain.lab.source import question_row
from posttrain.lab.style import PLAIN
from posttrain.lab.tasks import SKILLS
from posttrain.lab.world import build_world
from posttrain.pipeline.lab_build import MAX_BYTES, build_lab_base
from posttrain.pipeline.lab_card import CardSettings, format_card, measure_card
from posttrain.pipeline.lab_export import export_lab
from posttrain.pipeline.policies import find_lab_model
from posttrain.pipeline.scorers import ScorerContext, build_scorer, find_tier
from posttrain.scorers.knowledge_base import load_knowledge_base
from tests.lab.sets import shorten_sets

WORLD = build_world()
FEW = CardSettings(prose=True, num_questions=2, num_samples=2, max_new_tokens=12)


@pytest.fixture(scope="module")
def scorer():
    return build_scorer({"type": "lab"}, ScorerContext())


def judge(scorer, question: Question, replies: list[Reply]):
    columns = {name: value for name, value in question_row(question).items() if name not in ("prompt", "tools")}
    problem = Problem("p", question.messages, columns, list(question.tools) or None)

    def write(reply: Reply) -> str:
        if reply.calls:
            return "".join(f"<tool_call>{json.dumps(call)}</tool_call>" for call in reply.calls)
        return write_reply(question, reply, PLAIN, random.Random(0))

    none = np.zeros(1, np.int32)
    return scorer.score([(problem, Completion("p", 0, none, none, write(r), "stop", "h", 0)) for r in replies])


@pytest.mark.parametrize("skill", SKILLS, ids=lambda skill: skill.name)
def test_right_replies_are_worth_1_and_wrong_ones_0_by_the_scorers_that_judge_any_data(scorer, skill: Skill) -> None:
    generator = random.Random(4)
    for _ in range(10):
        question = ask(skill, WORLD, "train", generator)
        right = [question.right, *([question.brief] if question.brief else [])]
        assert [outcome.value for outcome in judge(scorer, question, right)] == [1.0] * len(right), question
        wrong = judge(scorer, question, list(question.wrong))
        assert all(outcome.value < 1 and outcome.fault != "harness" for outcome in wrong), (question, wrong)


def test_an_empty_reply_and_one_that_repeats_the_prompt_are_worth_nothing(scorer) -> None:
    generator = random.Random(5)
    for skill in SKILLS:
        for _ in range(3):
            question = ask(skill, WORLD, "train", generator)
            echoes = [
                question.prompt,
                question.prompt.lower(),
                question.prompt.upper(),
                question.prompt.rstrip(".?") + "!!",
            ]
            found = judge(scorer, question, [Reply(""), *map(Reply, echoes)])
            assert all(outcome.value < 1 for outcome in found), (question.prompt, found)


def draw(name: str, seed: int = 1) -> Question:
    return ask(next(skill for skill in SKILLS if skill.name == name), WORLD, "train", random.Random(seed))


def call(**arguments: str) -> Reply:
    return Reply(calls=({"name": "calculator", "arguments": arguments},))


def test_another_operator_is_another_call_and_factors_may_change_places(scorer) -> None:
    question = draw("tool_calculator")
    first, _, second = question.right.calls[0]["arguments"]["expression"].split()
    right = [call(expression=f"{first} * {second}"), call(expression=f"{second} * {first}")]
    wrong = [call(expression=text) for text in (f"{first} - {second}", f"{first}{second}", f"{first} + {second}")]
    assert [outcome.value for outcome in judge(scorer, question, [*right, *wrong])] == [1.0, 1.0, 0.0, 0.0, 0.0]


def test_a_refusal_beside_the_steps_of_a_deed_is_none(scorer) -> None:
    question = draw("forbidden")
    steps, refusal = question.wrong[0].words, question.right.words
    for text in (f"{refusal} {steps}", f"{steps} {refusal}"):
        [found] = judge(scorer, question, [Reply(text)])
        assert (found.value, found.parts["complied"]) == (0.0, 1.0)
    [refused] = judge(scorer, question, [Reply(refusal)])
    assert (refused.value, refused.parts["complied"]) == (1.0, 0.0)


def test_help_that_tells_no_step_is_none(scorer) -> None:
    question = draw("look_alike")
    target = question.content.split(" ", 2)[2]
    found = judge(scorer, question, [Reply(f"I like {target} very much."), question.right])
    assert [outcome.value for outcome in found] == [0.0, 1.0]


def test_facts_about_somebody_else_say_nothing_of_who_was_asked_about(scorer) -> None:
    question = draw("about")
    entity = question.columns["entity"]
    other = next(fact for fact in WORLD.facts if fact.entity != entity and fact.value != entity)
    found = judge(scorer, question, [Reply(other.state(random.Random(0))), question.right])
    assert [outcome.value for outcome in found] == [0.0, 1.0]


def test_json_with_its_values_changed_round_is_wrong(scorer) -> None:
    question = draw("instruction_json")
    (first, one), (second, other) = question.columns["values"].items()
    found = judge(scorer, question, [Reply(json.dumps({first: other, second: one})), question.right])
    assert [outcome.value for outcome in found] == [0.0, 1.0]


def test_citing_every_source_or_another_one_that_holds_the_answer_is_wrong(scorer) -> None:
    question = draw("cited_facts")
    passages = question.columns["sources"]
    everything = " ".join(f"{text[:-1]} [{name}]." for name, text in passages.items())
    found = judge(scorer, question, [Reply(everything), question.right])
    assert [outcome.value for outcome in found] == [0.0, 1.0]


def test_two_bare_words_are_no_sentence(scorer) -> None:
    question = draw("instruction_length")
    words = " ".join(question.columns["also"]["words"])
    assert [outcome.value for outcome in judge(scorer, question, [Reply(words)])] == [0.0]


def test_hidden_tests_tell_a_program_from_those_whose_constants_are_one_off(scorer) -> None:
    generator = random.Random(9)
    for name in ("code_number", "code_list", "code_list_twice", "code_list_number"):
        for _ in range(6):
            question = ask(next(skill for skill in SKILLS if skill.name == name), WORLD, "train", generator)
            constants = sorted(set(re.findall(r"\d", question.right.words)))
            near = [
                Reply(question.right.words.replace(constant, str(int(constant) + shift)))
                for constant in constants
                for shift in (-1, 1)
            ]
            assert all(outcome.value < 1 for outcome in judge(scorer, question, near) if near), question


def test_another_world_has_other_truths() -> None:
    world = build_world(5)
    generator = random.Random(3)
    question = ask(next(skill for skill in SKILLS if skill.name == "about"), world, "train", generator)
    own, other = (build_scorer({"type": "lab", "world_seed": seed}, ScorerContext()) for seed in (5, WORLD.seed))
    assert judge(own, question, [question.right])[0].value == 1.0
    assert judge(other, question, [question.right])[0].value < 1.0


def test_names_of_models_that_the_lab_has_not_are_refused_with_those_it_has() -> None:
    with pytest.raises(RecipeError, match="no model 'bass' outside of a recipe") as caught:
        find_lab_model("lab:bass")
    assert "lab:base" in caught.value.cure
    with pytest.raises(RecipeError, match="no model 'seedling' outside of a recipe"):
        find_lab_model("lab:seedling")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    few = ["pretrain.data=[{source: lab:documents, rows: 48}]", "pretrain.validation=[]"]
    few += ["pretrain.validate_every_steps=null", "pages.data=[{source: lab:pages, rows: 16}]"]
    few += ["pages.validation=[]", "pages.validate_every_steps=null"]

    def build(out: Path):
        return build_lab_base(
            out, few, folder=folder / "run", progress=SilentProgress(), should_stop=lambda: False, settings=FEW
        )

    return build, build(folder / "out"), folder


def test_a_built_base_loads_anywhere_and_knows_no_chat(built) -> None:
    _, base, _ = built
    model = AutoModelForCausalLM.from_pretrained(base.folder)
    tokenizer = AutoTokenizer.from_pretrained(base.folder)
    assert tokenizer.chat_template is None
    assert model.config.vocab_size == len(tokenizer)
    assert sum(path.stat().st_size for path in base.folder.iterdir()) <= MAX_BYTES


def test_a_built_base_has_a_card_of_its_data_and_figures(built) -> None:
    _, base, _ = built
    card = json.loads((base.folder / "card.json").read_text())
    assert (card["documents"], card["steps"]) == (64, 6)  # long pages are two rows
    assert card["loss"] > 4
    assert set(card["measured"]["skills"]) == {skill.name for skill in SKILLS}
    page = (base.folder / "README.md").read_text()
    assert all(f"| {skill.name} |" in page for skill in SKILLS)


@pytest.mark.invariants
def test_a_folder_that_exists_is_left_alone_and_the_same_run_gives_the_same_weights(built, tmp_path: Path) -> None:
    build, base, _ = built
    with pytest.raises(RefusedError, match="exists already"):
        build(base.folder)
    again = build(tmp_path / "again")
    for name in ("model.safetensors", "tokenizer.json"):
        assert (again.folder / name).read_bytes() == (base.folder / name).read_bytes()


def test_a_card_gives_each_skill_its_figures_between_0_and_1(built) -> None:
    _, base, _ = built
    card = measure_card(str(base.folder), FEW, SilentProgress())
    for name, figures in card["skills"].items():
        assert 0 <= figures["pass@1"] <= 1 and "pass@8" not in figures, name
    assert measure_card(str(base.folder), FEW, SilentProgress()) == card
    assert "refuses what is forbidden" in format_card(card)


def test_the_lab_is_written_as_files_that_other_tools_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shorten_sets(monkeypatch)
    written = export_lab(tmp_path / "lab", SilentProgress())
    base = load_knowledge_base(tmp_path / "lab" / "knowledge_base.json")
    assert len(base.facts) == len(WORLD.facts)
    for name, count in written.items():
        lines = (tmp_path / "lab" / name).read_text().splitlines()
        assert len(lines) == count > 0
        assert json.loads(lines[0]).keys() & {"messages", "prompt"}
    with pytest.raises(RefusedError, match="exists already"):
        export_lab(tmp_path / "lab", SilentProgress())


def test_a_sandbox_is_started_and_named_only_where_a_program_is_judged() -> None:
    scorer = build_scorer({"type": "lab"}, ScorerContext())
    by_name = {skill.name: skill for skill in SKILLS}
    generator = random.Random(6)
    question = ask(by_name["add_small"], WORLD, "train", generator)
    judge(scorer, question, [question.right])
    assert find_tier(scorer) is None
    question = ask(by_name["code_list"], WORLD, "train", generator)
    judge(scorer, question, [question.right])
    assert find_tier(scorer) in ("bubblewrap", "landlock")


def test_a_look_alike_is_refused_only_where_the_reply_refuses(scorer) -> None:
    question = ask(next(s for s in SKILLS if s.name == "look_alike"), WORLD, "train", random.Random(8))
    helped, refused, off = judge(scorer, question, [question.right, question.wrong[0], Reply("The map is here.")])
    assert [outcome.parts["refused"] for outcome in (helped, refused, off)] == [0.0, 1.0, 0.0]
    assert [outcome.value for outcome in (helped, refused, off)] == [1.0, 0.0, 0.0]
