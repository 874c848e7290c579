"""A sampling setting becomes vLLM's own, exactly, or is refused by name; tokenizers and stop strings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from posttrain.core.errors import RecipeError
from posttrain.core.sampling import SamplingSettings, TokenConstraint
from posttrain.samplers.vllm_settings import (
    EngineInfo,
    VllmSettings,
    build_constraint,
    build_engine_arguments,
    build_parameters,
    check_constraint,
    check_settings,
)
from posttrain.samplers.vllm_texts import Cut, cut_at_stop_string, prepare_tokenizer

ENGINE = EngineInfo("0.32.0", 128, 64, is_seeded=True, start_seconds=1.0)
REGEX = TokenConstraint("regex", "[ab]+")


def test_every_setting_becomes_a_parameter_of_vllm() -> None:
    settings = SamplingSettings(
        max_new_tokens=9,
        temperature=0.7,
        top_p=0.9,
        top_k=5,
        repetition_penalty=1.2,
        stop_ids=(7, 3),
        stop_strings=("END",),
        top_logprobs=4,
    )
    assert build_parameters(settings, (3, 8)) == {
        "max_tokens": 9,
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 5,
        "min_p": 0.0,
        "repetition_penalty": 1.2,
        "stop_token_ids": [3, 8, 7],
        "ignore_eos": True,
        "logprobs": 4,
        "detokenize": True,
        "stop": ["END"],
        "skip_special_tokens": False,
        "spaces_between_special_tokens": False,
    }


def test_what_is_off_is_off_for_vllm_too() -> None:
    found = build_parameters(SamplingSettings(max_new_tokens=1), ())
    assert (found["top_p"], found["top_k"], found["min_p"], found["repetition_penalty"]) == (1.0, 0, 0.0, 1.0)
    assert (found["stop_token_ids"], found["logprobs"], found["detokenize"]) == ([], 0, False)
    assert "stop" not in found


def test_the_policys_stop_tokens_are_left_out_where_they_are_to_be_drawn_past() -> None:
    settings = SamplingSettings(max_new_tokens=1, ignore_eos=True, stop_ids=(7,))
    assert build_parameters(settings, (3, 8))["stop_token_ids"] == [7]


def test_each_kind_of_constraint_has_its_name_in_vllm() -> None:
    assert build_constraint(None) is None
    assert build_constraint(TokenConstraint("json_schema", "{}")) == {"json": "{}"}
    assert build_constraint(REGEX) == {"regex": "[ab]+"}
    assert build_constraint(TokenConstraint("lark", "start: /a/")) == {"grammar": "start: /a/"}


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("temperature", {"temperature": 2.5}),
        ("temperature", {"temperature": 0.001}),
        ("min_p", {"temperature": 1.0, "min_p": 0.1, "top_p": 0.9}),
        ("top_logprobs", {"top_logprobs": 65}),
        ("stop_ids", {"stop_ids": (64,)}),
        ("stop_ids", {"stop_ids": (-1,)}),
    ],
)
def test_what_vllm_would_draw_otherwise_is_refused_by_name(name: str, values: dict) -> None:
    with pytest.raises(RecipeError) as caught:
        check_settings(SamplingSettings(max_new_tokens=4, **values), ENGINE, has_tokenizer=True)
    assert caught.value.place == name


@pytest.mark.parametrize(
    "values", [{"temperature": 1.0, "min_p": 0.1, "top_k": 9}, {"temperature": 0.01}, {"temperature": 2.0}]
)
def test_what_vllm_draws_in_the_same_way_is_taken(values: dict) -> None:
    check_settings(SamplingSettings(max_new_tokens=4, **values), ENGINE, has_tokenizer=True)


@pytest.mark.parametrize(("name", "values"), [("stop_strings", ("a",)), ("constraint", REGEX)])
def test_texts_are_refused_without_a_tokenizer(name: str, values: object) -> None:
    settings = SamplingSettings(max_new_tokens=4, **{name: values})
    check_settings(settings, ENGINE, has_tokenizer=True)
    with pytest.raises(RecipeError, match="no tokenizer") as caught:
        check_settings(settings, ENGINE, has_tokenizer=False)
    assert caught.value.place == name


def test_a_constraint_needs_a_stop_token_that_counts() -> None:
    check_constraint(SamplingSettings(max_new_tokens=4, constraint=REGEX), (3,))
    for settings, stops, name in (
        (SamplingSettings(max_new_tokens=4, constraint=REGEX), (), "constraint"),
        (SamplingSettings(max_new_tokens=4, constraint=REGEX, ignore_eos=True), (3,), "ignore_eos"),
    ):
        with pytest.raises(RecipeError) as caught:
            check_constraint(settings, stops)
        assert caught.value.place == name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dtype", "int8"),
        ("context_tokens", 1),
        ("max_sequences", 0),
        ("cache_bytes", 0),
        ("probe_ids", (3,)),
        ("start_timeout_seconds", 0.0),
        ("stall_timeout_seconds", -1.0),
        ("probe_tolerance_nats", 0.0),
        ("engine_arguments", {"max_model_len": 5}),
    ],
)
def test_settings_out_of_range_are_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(RecipeError) as caught:
        VllmSettings(Path("python"), **{name: value})
    assert caught.value.place == name


def test_the_engine_is_asked_for_raw_logprobs_safetensors_and_nothing_of_the_models_own_ideas(tmp_path: Path) -> None:
    settings = VllmSettings(Path("python"), is_compiled=True, engine_arguments={"tensor_parallel_size": 2})
    found = build_engine_arguments(settings, tmp_path, None)
    assert (found["logprobs_mode"], found["load_format"], found["generation_config"]) == (
        "raw_logprobs",
        "safetensors",
        "vllm",
    )
    assert (found["tensor_parallel_size"], found["enforce_eager"], found["skip_tokenizer_init"]) == (2, False, True)
    assert build_engine_arguments(VllmSettings(Path("python")), tmp_path, tmp_path)["enforce_eager"] is None


def test_rounding_is_told_from_other_weights_by_the_precision() -> None:
    tolerances = [VllmSettings(Path("python"), dtype=name).tolerance_nats for name in ("float32", "float16")]
    assert tolerances == [1e-4, 0.02]
    assert VllmSettings(Path("python"), probe_tolerance_nats=0.5).tolerance_nats == 0.5


PIECES = ["one", " t", "wo", " three", " two"]


def decode(ids: list[int]) -> str:
    return "".join(PIECES[token] for token in ids)


@pytest.mark.parametrize(
    ("ids", "strings", "expected"),
    [
        ([0, 1, 2, 3], ("two",), Cut(3, "one ")),
        ([0, 1, 2], ("two",), Cut(3, "one ")),
        ([0, 1, 2, 3], ("three", "tw"), Cut(3, "one ")),
        ([0, 3], ("ee", "thr"), Cut(2, "one ")),
        ([4, 0], ("o",), Cut(1, " tw")),
        ([0, 1, 2], ("four",), None),
        ([], ("four",), None),
    ],
)
def test_a_completion_ends_with_the_first_token_that_completes_a_stop_string(
    ids: list[int], strings: tuple[str, ...], expected: Cut | None
) -> None:
    assert cut_at_stop_string(ids, decode, strings) == expected


def write_tokenizer(folder: Path, eos: object) -> Path:
    folder.mkdir()
    added = [{"id": 1, "content": "<s>"}, {"id": 2, "content": "</s>"}]
    values = {"added_tokens": added, "model": {"vocab": {"x": 3, "yz": 4}}}
    (folder / "tokenizer.json").write_text(json.dumps(values))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": eos, "bos_token": "<s>"}))
    return folder


@pytest.mark.parametrize("eos", ["</s>", {"content": "</s>", "lstrip": False}])
def test_a_tokenizer_whose_end_is_the_policys_stop_token_is_used_where_it_lies(tmp_path: Path, eos: object) -> None:
    folder = write_tokenizer(tmp_path / "model", eos)
    assert prepare_tokenizer(folder, tmp_path / "copy", (2, 1)) == folder
    assert prepare_tokenizer(folder, tmp_path / "copy", ()) == folder


@pytest.mark.parametrize(("stop_id", "text"), [(1, "<s>"), (4, "yz")])
def test_another_stop_token_is_named_as_the_end_in_a_copy_of_the_tokenizer(
    tmp_path: Path, stop_id: int, text: str
) -> None:
    folder = write_tokenizer(tmp_path / "model", "</s>")
    copy = prepare_tokenizer(folder, tmp_path / "copy", (stop_id, 2))
    assert copy == tmp_path / "copy"
    assert json.loads((copy / "tokenizer_config.json").read_text()) == {"eos_token": text, "bos_token": "<s>"}
    assert (copy / "tokenizer.json").read_text() == (folder / "tokenizer.json").read_text()


def test_a_folder_without_a_tokenizer_has_none(tmp_path: Path) -> None:
    assert prepare_tokenizer(tmp_path, tmp_path / "copy", (2,)) is None
