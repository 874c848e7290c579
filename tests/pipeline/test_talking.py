"""A model that answers: from a name to text, the same as transformers', shown while it is drawn."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from posttrain.core.errors import ModelError, RecipeError, SamplerError
from posttrain.core.records import Problem
from posttrain.core.sampling import SamplingSettings
from posttrain.models.artifacts import save_policy
from posttrain.models.loading import load_policy
from posttrain.models.manifest import ArtifactFacts
from posttrain.pipeline.recipe import read_recipe
from posttrain.pipeline.run import run_recipe
from posttrain.pipeline.talking import ModelChoice, open_policy_renderer, open_talker
from tests.models.tiny_models import TEMPLATE, save_tiny
from tests.pipeline.tiny_runs import Workshop, make_base, recipe_values, sft

QUESTION = Problem("q", [{"role": "user", "content": "Hi é東"}])


def test_pieces_shown_one_by_one_are_the_text_of_the_completion(tiny_base: Path) -> None:
    with open_talker(ModelChoice(str(tiny_base))) as talker:
        for seed in range(5):
            shown: list[str] = []
            completion = talker.answer(QUESTION, SamplingSettings(40, temperature=1.0), seed, shown.append)
            assert "".join(shown) == completion.text
            assert len(shown) == len(completion.ids) + 1  # one for each token, and the rest
            assert shown[-1] == "" or shown[-1].endswith("\ufffd")


def test_an_answer_does_not_depend_on_whether_it_is_shown(tiny_base: Path) -> None:
    settings = SamplingSettings(20, temperature=1.0)
    with open_talker(ModelChoice(str(tiny_base))) as talker:
        shown = talker.answer(QUESTION, settings, 3, lambda piece: None)
        [(_, drawn)] = talker.sampler.sample([QUESTION], settings, [3])
        assert shown.ids.tolist() == drawn.ids.tolist()
        assert talker.dtype == "float32" and talker.context_tokens == 256
        assert talker.notes == ["the model has no chat template: the plain one is used"]


def test_an_artifact_talks_in_the_format_that_it_was_trained_in(tmp_path: Path) -> None:
    policy = load_policy(save_tiny(tmp_path / "base"), dtype="float32")
    chat = {"date": "2001-02-03", "template_arguments": {"enable_thinking": False}}
    facts = ArtifactFacts(
        TEMPLATE, "0" * 32, (1, 2), chat=chat, key="k", parents=(), config={}, ledger={}
    )  # fmt: skip
    save_policy(policy, tmp_path / "artifact", facts, weights_dtype="bfloat16")
    with open_talker(ModelChoice(str(tmp_path / "artifact"))) as talker:
        assert talker.dtype == "bfloat16" and talker.notes == []
        chat_format = talker.renderer.format
        assert (chat_format.template, chat_format.date) == (TEMPLATE, "2001-02-03")
        assert chat_format.template_arguments == {"enable_thinking": False}
        assert set(chat_format.stop_ids) == {1, 2}


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"dtype": "float16"}, RecipeError, "auto or bfloat16 or float32"),
        ({"device": "gpu"}, RecipeError, "cuda:<number>"),
        ({"device": "cuda:99"}, RecipeError, "GPUs"),
        ({"model": "no/such/folder"}, ModelError, "no folder"),
    ],
)
def test_what_cannot_be_run_is_refused_with_a_cure(
    tiny_base: Path, changes: dict[str, str], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words), open_talker(ModelChoice(**{"model": str(tiny_base), **changes})):
        pass


def test_the_budget_of_the_engine_is_the_one_that_was_asked_for(tiny_base: Path) -> None:
    with open_talker(ModelChoice(str(tiny_base), max_rows=3, cache_gb=1e-5)) as talker:
        with pytest.raises(SamplerError, match="budget"):
            talker.answer(QUESTION, SamplingSettings(200), 0, lambda piece: None)
        assert talker.sampler.options.max_rows == 3  # type: ignore[attr-defined]


@pytest.mark.real_data
def test_greedy_text_of_a_real_model_is_what_transformers_generates(real_data: Path) -> None:
    folder = real_data / "tiny-llama-stories260k" / "hf"
    prompt = "Once upon a time, there was a little girl named Lily."
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(prompt, return_tensors="pt")
    with torch.no_grad():
        expected = model.generate(**inputs, do_sample=False, max_new_tokens=120)[0]
    shown: list[str] = []
    with open_talker(ModelChoice(str(folder), is_raw=True)) as talker:
        problem = Problem("q", [{"role": "user", "content": prompt}])
        completion = talker.answer(problem, SamplingSettings(120), 0, shown.append)
    assert completion.ids.tolist() == expected[inputs.input_ids.shape[1] :].tolist()
    assert prompt + "".join(shown) == tokenizer.decode(expected, skip_special_tokens=True)


def test_the_arguments_that_a_template_was_trained_with_are_there_when_its_artifact_talks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workshop = Workshop(tmp_path / "workshop", make_base(tmp_path / "base"))
    (workshop.folder / "own.jinja").write_text(
        "{{ greeting }}{% for m in messages %}{{ m.role }}: {{ m.content }}"
        "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    monkeypatch.chdir(workshop.folder)
    chat = {"template": "own.jinja", "arguments": {"greeting": "good day "}}
    (workshop.folder / "recipe.yaml").write_text(json.dumps(recipe_values(sft(steps=0), chat=chat)))
    folder = run_recipe(read_recipe(workshop.folder / "recipe.yaml"))
    (made,) = (path for path in (folder / "artifacts").iterdir() if (path / "manifest.json").is_file())
    with open_policy_renderer(load_policy(made, dtype="float32"), is_raw=False) as renderer:
        (ids,) = renderer.render_prompts([([{"role": "user", "content": "ant"}], None)])
        assert renderer.tokenizer.decode(ids.tolist()).endswith("good day user: antassistant: ")
