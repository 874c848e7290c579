"""Every setting is honoured token by token: cuts, penalties, stop strings, constraints, most probable tokens."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from posttrain.core.errors import RecipeError
from posttrain.core.records import Completion
from posttrain.core.sampling import SamplingSettings, TokenConstraint
from posttrain.samplers.constraints import ConstraintCompiler
from tests.chat.formats import build_backend
from tests.kernels.draws import SETTINGS, Case, exact_logprobs, name_of_settings
from tests.samplers.generating import build_sampler, draw, make_sharp_model, score, write_ids
from tests.samplers.test_constraints import COMPACT, SCHEMA
from tests.samplers.test_stops import search_plainly

FREE = [values for values in SETTINGS if "allowed" not in values]


@pytest.fixture(scope="module")
def model() -> Any:
    return make_sharp_model()


def case_of(model: Any, completion: Completion, settings: SamplingSettings) -> Case:
    """The logits of each step, with what had been seen by then in prompt and completion."""
    logits = score(model, completion)
    seen = torch.zeros(logits.shape, dtype=torch.bool)
    for step in range(len(completion.ids)):
        seen[step, completion.prompt_ids.tolist()] = True
        seen[step, completion.ids[:step].tolist()] = True
    return Case(logits, settings, seen, None)


@pytest.mark.parametrize("values", FREE, ids=name_of_settings)
def test_every_token_is_drawn_from_the_distribution_that_the_settings_say(model: Any, values: dict[str, Any]) -> None:
    settings = SamplingSettings(max_new_tokens=12, num_samples=2, **values)
    for completion in draw(build_sampler(model, batch_size=5), settings):
        case = case_of(model, completion, settings)
        chosen = torch.from_numpy(completion.ids).long()[:, None]
        expected = exact_logprobs(case).gather(1, chosen)[:, 0]
        np.testing.assert_allclose(completion.drawing_logprobs, expected, atol=2e-5)
        full = case.logits.log_softmax(-1).gather(1, chosen)[:, 0]
        np.testing.assert_allclose(completion.sampler_logprobs, full, atol=1e-5)


def test_a_penalty_also_changes_greedy_text(model: Any) -> None:
    settings = SamplingSettings(max_new_tokens=12, repetition_penalty=5.0)
    penalised = draw(build_sampler(model), settings)
    assert [c.ids.tolist() for c in penalised] != [
        c.ids.tolist() for c in draw(build_sampler(model), SamplingSettings(max_new_tokens=12))
    ]
    for completion in penalised:
        case = case_of(model, completion, settings)
        scores = torch.where(case.seen, torch.where(case.logits > 0, case.logits / 5, case.logits * 5), case.logits)
        assert scores.argmax(-1).tolist() == completion.ids.tolist()


def test_the_most_probable_tokens_of_each_position_are_recorded(model: Any) -> None:
    settings = SamplingSettings(max_new_tokens=6, temperature=0.5, top_k=3, top_logprobs=4, num_samples=2)
    for completion in draw(build_sampler(model), settings):
        exact = score(model, completion).double().log_softmax(-1).topk(4)
        top = completion.top_logprobs
        assert top is not None and top.ids_TK.dtype == np.int32 and top.ids_TK.shape == (len(completion.ids), 4)
        assert top.ids_TK.tolist() == exact.indices.tolist()
        np.testing.assert_allclose(top.logprobs_TK, exact.values, atol=1e-5)
    assert draw(build_sampler(model), SamplingSettings(max_new_tokens=2))[0].top_logprobs is None


def test_a_stop_string_ends_a_completion_whose_text_ends_before_it(model: Any) -> None:
    free = draw(build_sampler(model), SamplingSettings(max_new_tokens=14, temperature=1.0))
    marks = (write_ids(free[0].ids[3:5]), f"{free[1].ids[6]} {str(free[1].ids[7])[:1]}")
    stopped = draw(
        build_sampler(model, batch_size=4), SamplingSettings(max_new_tokens=14, temperature=1.0, stop_strings=marks)
    )
    for whole, completion in zip(free, stopped, strict=True):
        found = search_plainly(whole.ids.tolist(), marks, write_ids)
        length, text = found or (14, write_ids(whole.ids))
        assert completion.ids.tolist() == whole.ids[:length].tolist()
        assert completion.text == text
        assert completion.finish_reason == ("stop" if found else "length")
    assert [completion.finish_reason for completion in stopped[:2]] == ["stop", "stop"]


def test_the_policys_own_stop_tokens_can_be_ignored_and_those_of_the_settings_not(model: Any) -> None:
    free = draw(build_sampler(model), SamplingSettings(max_new_tokens=10))
    own, named = int(free[0].ids[2]), int(free[0].ids[4])
    assert own not in free[0].ids[:2] and named not in free[0].ids[:4]
    sampler = build_sampler(model, stop_ids=[own])
    assert len(draw(sampler, SamplingSettings(max_new_tokens=10))[0].ids) == 3
    ignored = draw(sampler, SamplingSettings(max_new_tokens=10, ignore_eos=True))
    assert [c.ids.tolist() for c in ignored] == [c.ids.tolist() for c in free]
    named_too = draw(sampler, SamplingSettings(max_new_tokens=10, ignore_eos=True, stop_ids=(named,)))
    assert named_too[0].ids.tolist() == free[0].ids[:5].tolist()


class Worded:
    """A random model over the vocabulary of a tokenizer, whose sampler can hold constraints."""

    def __init__(self, kind: str) -> None:
        text = build_backend(kind)
        tokenizer = Tokenizer.from_str(text)
        self.stop = tokenizer.get_vocab_size() - 1
        size = tokenizer.get_vocab_size() + 20
        anchor = tokenizer.encode("a", add_special_tokens=False).ids
        start = len(tokenizer.decode(anchor))
        self.model = make_sharp_model(vocab_size=size, max_position_embeddings=512)
        self.sampler = build_sampler(
            self.model,
            decode=lambda ids: tokenizer.decode([*anchor, *ids], skip_special_tokens=False)[start:],
            stop_ids=[self.stop],
            constraints=ConstraintCompiler(text, size),
            batch_size=6,
        )


@pytest.mark.parametrize("kind", ["bytes", "metaspace"])
def test_json_drawn_under_a_schema_is_valid_or_cut_at_the_limit(kind: str) -> None:
    worded = Worded(kind)
    constraint = TokenConstraint("json_schema", json.dumps(COMPACT))
    settings = SamplingSettings(max_new_tokens=120, temperature=2.0, num_samples=3, constraint=constraint)
    drawn = draw(worded.sampler, settings)
    ended = [completion for completion in drawn if completion.finish_reason == "stop"]
    assert len(ended) >= 10 and len({completion.text for completion in ended}) > 8
    for completion in ended:
        jsonschema.validate(json.loads(completion.text), SCHEMA)
        assert completion.ids[-1] == worded.stop
    assert all(len(completion.ids) == 120 for completion in drawn if completion.finish_reason == "length")


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_expression_is_matched_whole_and_log_probs_say_what_it_left(temperature: float) -> None:
    worded, pattern = Worded("bytes"), r"[a-d]{2,5}(, [x-z]{1,3}){0,2}!"
    settings = SamplingSettings(
        max_new_tokens=40, temperature=temperature, constraint=TokenConstraint("regex", pattern)
    )
    for completion in draw(worded.sampler, settings):
        assert completion.finish_reason == "length" or re.fullmatch(pattern, completion.text)
        full = score(worded.model, completion).log_softmax(-1)
        full = full.gather(1, torch.from_numpy(completion.ids).long()[:, None])[:, 0]
        np.testing.assert_allclose(completion.sampler_logprobs, full, atol=1e-5)
        assert bool((completion.drawing_logprobs >= completion.sampler_logprobs - 1e-5).all())


def test_constraints_that_cannot_be_held_are_refused_before_anything_is_drawn(model: Any) -> None:
    constraint = TokenConstraint("regex", "a+")
    with pytest.raises(RecipeError, match="without a tokenizer"):
        draw(build_sampler(model, stop_ids=[1]), SamplingSettings(max_new_tokens=2, constraint=constraint))
    with pytest.raises(RecipeError, match="without a stop token"):
        draw(Worded("bytes").sampler, SamplingSettings(max_new_tokens=2, constraint=constraint, ignore_eos=True))
