"""The engine: token for token what transformers generates, whatever runs beside it, and nothing left behind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from posttrain.core.errors import DataError, SamplerError
from posttrain.core.records import Completion, Problem
from posttrain.core.sampling import PolicyVersion, SamplingSettings
from posttrain.models.adapters import add_adapter, stack_adapter
from posttrain.models.lean_decoding import LeanDecoder
from posttrain.models.lora_settings import LoraSettings
from posttrain.pipeline.sampling import build_engine_model
from posttrain.samplers.graphs import RecordedDecode
from posttrain.samplers.kv_cache import KvCache
from posttrain.samplers.local import EngineOptions, LocalSampler
from posttrain.samplers.probing import UnmanagedCacheError
from tests.training.tiny import ARCHITECTURES, VOCABULARY, make_model

MANAGED = [name for name in ARCHITECTURES if name != "mamba"]
LENGTHS = (5, 17, 3, 9, 12, 1, 8, 14)


def make_prompts(lengths: Sequence[int] = LENGTHS, seed: int = 0) -> list[list[int]]:
    random = np.random.default_rng(seed)
    return [random.integers(3, VOCABULARY, length).tolist() for length in lengths]


def make_sampler(
    model: Any,
    prompts: list[list[int]],
    *,
    dtype: torch.dtype = torch.float32,
    stop_ids: Sequence[int] = (),
    **options: int,
) -> LocalSampler:
    return LocalSampler(
        build_engine_model(model, dtype),
        "policy-0",
        lambda problems: [prompts[int(problem.problem_id)] for problem in problems],
        lambda ids: " ".join(map(str, ids)),
        stop_ids=stop_ids,
        options=EngineOptions(**options),
    )


def draw(sampler: LocalSampler, count: int, settings: SamplingSettings) -> list[list[Completion]]:
    """All completions, problem by problem, sample by sample."""
    problems = [Problem(str(index), []) for index in range(count)]
    drawn: list[list[Completion | None]] = [[None] * settings.num_samples for _ in problems]
    for index, completion in sampler.sample(problems, settings, range(100, 100 + count)):
        assert drawn[index][completion.sample_index] is None
        drawn[index][completion.sample_index] = completion
    assert all(completion is not None for row in drawn for completion in row)
    return drawn  # type: ignore[return-value]


def generate(model: Any, prompt: list[int], count: int) -> list[int]:
    """What transformers generates greedily, one prompt at a time."""
    model.set_attn_implementation("eager")
    ids = torch.tensor([prompt])
    with torch.no_grad():
        output = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=count, min_new_tokens=count,
            pad_token_id=0, eos_token_id=None,
        )  # fmt: skip
    return output[0, len(prompt) :].tolist()


@pytest.mark.parametrize("name", MANAGED)
def test_greedy_text_is_that_of_generate_token_by_token(name: str) -> None:
    model = make_model(name).eval()
    prompts = make_prompts()
    sampler = make_sampler(model, prompts, max_rows=3, prefill_tokens=16)
    drawn = draw(sampler, len(prompts), SamplingSettings(max_new_tokens=40))
    for prompt, (completion,) in zip(prompts, drawn, strict=True):
        assert completion.ids.tolist() == generate(model, prompt, 40)
        assert completion.finish_reason == "length"


def compute_drawn_logits(model: Any, completion: Completion) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits [T, V] that a completion's tokens were drawn from, by one forward pass, and its ids [T, 1]."""
    ids = torch.from_numpy(np.concatenate([completion.prompt_ids, completion.ids])).long()
    with torch.no_grad():
        logits = model(input_ids=ids[None], use_cache=False).logits[0, len(completion.prompt_ids) - 1 : -1]
    return logits, ids[len(completion.prompt_ids) :, None]


def check_logprobs(model: Any, drawn: list[list[Completion]], temperature: float) -> None:
    """Both log-probs of every token are those of one forward pass."""
    model.set_attn_implementation("eager")
    for completion in (completion for row in drawn for completion in row):
        logits, chosen = compute_drawn_logits(model, completion)
        full = logits.double().log_softmax(-1).gather(1, chosen)[:, 0]
        tempered = (logits.double() / temperature).log_softmax(-1).gather(1, chosen)[:, 0]
        np.testing.assert_allclose(completion.sampler_logprobs, full, atol=1e-5)
        np.testing.assert_allclose(completion.drawing_logprobs, tempered, atol=2e-5)


@pytest.mark.parametrize("name", MANAGED)
def test_log_probs_are_those_of_one_forward_pass(name: str) -> None:
    model = make_model(name).eval()
    prompts = make_prompts()
    sampler = make_sampler(model, prompts, max_rows=5)
    drawn = draw(sampler, len(prompts), SamplingSettings(max_new_tokens=20, temperature=0.7, num_samples=3))
    check_logprobs(model, drawn, 0.7)


@pytest.mark.parametrize("name", MANAGED)
def test_llamas_descendants_are_decoded_leanly_and_others_by_their_modules(name: str) -> None:
    is_lean = isinstance(build_engine_model(make_model(name).eval(), torch.float32).decode, LeanDecoder)
    assert is_lean == (name in ("llama", "qwen2", "qwen3", "mistral", "granite"))


def test_text_does_not_depend_on_neighbours_rows_or_passes() -> None:
    model = make_model("llama").eval()
    prompts = make_prompts()
    settings = SamplingSettings(max_new_tokens=24, temperature=1.0, num_samples=4)
    expected = None
    for options in ({"max_rows": 32}, {"max_rows": 1}, {"max_rows": 5, "prefill_tokens": 7}, {"max_rows": 9}):
        drawn = draw(make_sampler(model, prompts, stop_ids=(3, 4, 5), **options), len(prompts), settings)
        texts = [[completion.ids.tolist() for completion in row] for row in drawn]
        assert expected is None or texts == expected
        expected = texts
    alone = draw(make_sampler(model, prompts[2:3], stop_ids=(3, 4, 5)), 1, settings)  # another seed: 100, not 102
    assert [completion.ids.tolist() for completion in alone[0]] != expected[2]
    assert len({tuple(ids) for row in expected for ids in row}) > 24  # samples differ from one another


def test_one_sample_and_the_first_of_several_are_the_same_text() -> None:
    """A prompt in the sequence's own row and a shared one are two ways to the same numbers."""
    model = make_model("gemma3_text").eval()
    prompts = make_prompts()
    one = draw(make_sampler(model, prompts), len(prompts), SamplingSettings(max_new_tokens=24, temperature=1.0))
    several = draw(
        make_sampler(model, prompts), len(prompts), SamplingSettings(max_new_tokens=24, temperature=1.0, num_samples=3)
    )
    for (alone,), row in zip(one, several, strict=True):
        assert alone.ids.tolist() == row[0].ids.tolist()
        np.testing.assert_allclose(alone.sampler_logprobs, row[0].sampler_logprobs, atol=1e-5)


def test_stop_tokens_end_a_sequence_and_are_part_of_its_ids_but_not_of_its_text() -> None:
    model = make_model("llama").eval()
    prompts = make_prompts()
    stops = (7, 8, 9, 10, 11, 12)
    free = draw(make_sampler(model, prompts), len(prompts), SamplingSettings(max_new_tokens=30, temperature=1.0))
    stopped = draw(
        make_sampler(model, prompts, stop_ids=stops[:3]),
        len(prompts),
        SamplingSettings(max_new_tokens=30, temperature=1.0, stop_ids=stops[3:]),
    )
    ended = 0
    for (long,), (short,) in zip(free, stopped, strict=True):
        hits = [i for i, token in enumerate(long.ids) if token in stops]
        length = hits[0] + 1 if hits else 30
        assert short.ids.tolist() == long.ids[:length].tolist()
        assert short.finish_reason == ("stop" if hits else "length")
        assert short.text == " ".join(map(str, short.ids[: length - bool(hits)].tolist()))
        ended += bool(hits)
    assert ended > 0
    ignoring = SamplingSettings(max_new_tokens=30, temperature=1.0, ignore_eos=True)
    ignored = draw(make_sampler(model, prompts, stop_ids=stops), len(prompts), ignoring)
    assert [row[0].ids.tolist() for row in ignored] == [row[0].ids.tolist() for row in free]


def test_most_probable_tokens_come_with_their_log_probs() -> None:
    model = make_model("qwen3").eval()
    prompts = make_prompts((4, 6))
    drawn = draw(make_sampler(model, prompts), 2, SamplingSettings(max_new_tokens=10, top_logprobs=5))
    for (completion,) in drawn:
        top = completion.top_logprobs
        assert top is not None and top.ids_TK.shape == (10, 5)
        np.testing.assert_array_equal(top.ids_TK[:, 0], completion.ids)
        np.testing.assert_allclose(top.logprobs_TK[:, 0], completion.sampler_logprobs, atol=1e-6)
        assert (np.diff(top.logprobs_TK, axis=1) <= 0).all()


@pytest.mark.parametrize("kind", ["full", "lora", "stacked"])
def test_published_weights_are_the_ones_that_are_sampled(kind: str) -> None:
    """One weight is perturbed and published: the probe moves, and matches the policy to 1e-4."""
    model = make_model("llama").eval()
    if kind != "full":
        model = add_adapter(model, LoraSettings(rank=2, alpha=4), "sft", 3)
    if kind == "stacked":
        model = stack_adapter(model, LoraSettings(rank=3, alpha=6), "dpo", 4)
    prompts = make_prompts()
    sampler = make_sampler(model, prompts)
    settings = SamplingSettings(max_new_tokens=12)
    before = draw(sampler, len(prompts), settings)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name or (kind == "full" and "down_proj" in name):
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    with pytest.raises(SamplerError, match="probe"):
        sampler.check_probe(model)
    assert sampler.publish(PolicyVersion("policy-1", model=model)) == "policy-1"
    assert sampler.check_probe(model) < 1e-4
    after = draw(sampler, len(prompts), settings)
    fresh = draw(make_sampler(model, prompts), len(prompts), settings)
    assert [row[0].ids.tolist() for row in after] == [row[0].ids.tolist() for row in fresh]
    assert [row[0].ids.tolist() for row in after] != [row[0].ids.tolist() for row in before]
    assert {row[0].policy_hash for row in after} == {"policy-1"}
    assert {row[0].policy_hash for row in before} == {"policy-0"}


def test_a_failed_publishing_leaves_no_policy_to_draw_from() -> None:
    model = make_model("llama").eval()
    prompts = make_prompts()
    sampler = make_sampler(model, prompts)
    live = make_model("llama").eval()
    with torch.no_grad():
        live.model.embed_tokens.weight[0] = float("nan")
        live.model.layers[1].mlp.down_proj.weight[3, 4] = float("nan")
    with pytest.raises(SamplerError, match="probe"):
        sampler.publish(PolicyVersion("broken", model=live))
    with pytest.raises(SamplerError, match="no known policy"):
        draw(sampler, len(prompts), SamplingSettings(max_new_tokens=4))
    sampler.publish(PolicyVersion("mended", model=model))
    assert draw(sampler, 1, SamplingSettings(max_new_tokens=4))[0][0].policy_hash == "mended"


def test_closing_the_iterator_cancels_and_leaves_the_engine_ready() -> None:
    model = make_model("llama").eval()
    prompts = make_prompts()
    sampler = make_sampler(model, prompts, max_rows=4)
    settings = SamplingSettings(max_new_tokens=16, temperature=1.0, num_samples=2)
    expected = draw(sampler, len(prompts), settings)
    problems = [Problem(str(index), []) for index in range(len(prompts))]
    for read in range(0, 16, 3):
        iterator = sampler.sample(problems, settings, range(100, 108))
        for _ in range(read):
            next(iterator)
        if read:
            with pytest.raises(SamplerError, match="another iterator"):
                next(sampler.sample(problems, settings, range(8)))
            with pytest.raises(SamplerError, match="while completions"):
                sampler.publish(PolicyVersion("x", model=model))
        iterator.close()  # type: ignore[attr-defined]
    again = draw(sampler, len(prompts), settings)
    assert [c.ids.tolist() for row in again for c in row] == [c.ids.tolist() for row in expected for c in row]
    sampler.close()
    sampler.close()
    assert sampler._cache.num_bytes == 0


def test_prompts_that_cannot_be_answered_are_refused_before_anything_is_drawn() -> None:
    model = make_model("llama").eval()
    problems = [Problem("0", []), Problem("1", [])]
    for prompts, wrong in (([[5], []], "empty"), ([[5], [4] * 120], "max_new_tokens 10")):
        sampler = make_sampler(model, prompts)
        with pytest.raises(DataError, match=wrong) as error:
            sampler.sample(problems, SamplingSettings(max_new_tokens=10), [0, 1])
        assert error.value.place == "1"


def test_a_budget_that_holds_one_sequence_is_enough_and_a_smaller_one_is_refused() -> None:
    model = make_model("llama").eval()
    prompts = make_prompts((30, 30, 30))
    settings = SamplingSettings(max_new_tokens=30)
    bytes_per_token = 2 * 2 * 2 * 8 * 4  # layers, keys and values, heads, size, fp32
    drawn = draw(make_sampler(model, prompts, cache_bytes=64 * bytes_per_token), 3, settings)
    expected = draw(make_sampler(model, prompts), 3, settings)
    assert [row[0].ids.tolist() for row in drawn] == [row[0].ids.tolist() for row in expected]
    with pytest.raises(SamplerError, match="budget"):
        draw(make_sampler(model, prompts, cache_bytes=63 * bytes_per_token), 3, settings)


def test_logits_that_are_not_finite_stop_the_engine_with_an_error() -> None:
    model = make_model("llama").eval()
    prompts = make_prompts()
    sampler = make_sampler(model, prompts)
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight[:] = float("nan")
    sampler._model.refresh(model)
    with pytest.raises(SamplerError):
        draw(sampler, len(prompts), SamplingSettings(max_new_tokens=4))


@pytest.mark.parametrize("name", ["mamba"])
def test_architectures_whose_cache_cannot_be_managed_are_found_out(name: str) -> None:
    with pytest.raises(UnmanagedCacheError):
        build_engine_model(make_model(name).eval(), torch.float32)


def test_bf16_log_probs_are_near_those_of_fp32() -> None:
    model = make_model("llama", dtype=torch.bfloat16).eval()
    prompts = make_prompts()
    settings = SamplingSettings(max_new_tokens=20, temperature=1.0, num_samples=2)
    drawn = draw(make_sampler(model, prompts, dtype=torch.bfloat16), len(prompts), settings)
    reference = make_model("llama", dtype=torch.bfloat16).float().eval()
    differences = []
    for completion in (completion for row in drawn for completion in row):
        ids = torch.from_numpy(np.concatenate([completion.prompt_ids, completion.ids])).long()
        with torch.no_grad():
            logits = reference(input_ids=ids[None]).logits[0, len(completion.prompt_ids) - 1 : -1]
        full = logits.log_softmax(-1).gather(1, ids[len(completion.prompt_ids) :, None])[:, 0]
        differences.append(np.abs(full.numpy() - completion.sampler_logprobs))
    assert np.concatenate(differences).mean() < 0.05


class _CpuRecording:
    """What a CUDA graph does, on a CPU: the same function again, into the same output."""

    def __init__(self, run: Callable[[], torch.Tensor], output: torch.Tensor) -> None:
        self.run, self.output = run, output

    def replay(self) -> None:
        self.output.copy_(self.run())


@pytest.mark.parametrize("name", ["llama", "gemma2"])
@pytest.mark.parametrize("num_samples", [1, 3])
def test_recorded_passes_draw_what_eager_ones_draw(name: str, num_samples: int) -> None:
    model = make_model(name).eval()
    prompts = make_prompts()
    eager, recorded = (make_sampler(model, prompts, stop_ids=(3, 4), max_rows=7) for _ in range(2))
    recordings = []

    def record(run: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, _CpuRecording]:
        run()
        output = run()
        recordings.append(_CpuRecording(run, output))
        return output, recordings[-1]

    cache = KvCache(recorded._model.shapes, torch.float32, torch.device("cpu"), 1 << 30, is_fixed=True)
    recorded._cache, recorded._decode_pass = cache, RecordedDecode(recorded._model.decode, cache, record)
    settings = SamplingSettings(max_new_tokens=60, temperature=1.0, num_samples=num_samples)
    expected = draw(eager, len(prompts), settings)
    for _ in range(2):
        found = draw(recorded, len(prompts), settings)
        assert [c.ids.tolist() for row in found for c in row] == [c.ids.tolist() for row in expected for c in row]
        num_recordings = len(recordings)
    assert 0 < num_recordings < 8  # the second call records nothing new
    held = cache.num_bytes
    assert held > 0
    recorded.publish(PolicyVersion("policy-1", model=model))
    recorded.close()
    assert cache.num_bytes == 0


def test_stop_strings_end_a_sequence_wherever_its_tokens_break() -> None:
    model = make_model("llama").eval()
    prompts = make_prompts()
    free = draw(make_sampler(model, prompts), len(prompts), SamplingSettings(max_new_tokens=30, temperature=1.0))
    settings = SamplingSettings(max_new_tokens=30, temperature=1.0, stop_strings=("1 2", "9 3", "4 4", "0 1"))
    stopped = draw(make_sampler(model, prompts), len(prompts), settings)
    ended = 0
    for (long,), (short,) in zip(free, stopped, strict=True):
        starts = [start for start in map(long.text.find, settings.stop_strings) if start >= 0]
        assert short.text == (long.text[: min(starts)] if starts else long.text)
        assert short.finish_reason == ("stop" if starts else "length")
        assert short.ids.tolist() == long.ids[: len(short.ids)].tolist()
        ended += bool(starts)
    assert ended > 2
