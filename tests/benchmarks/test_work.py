"""The work that both sides are given: the same rows, the same model, whatever the machine."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest

from benchmarks.models import END, START, build_tokenizer, save_model
from benchmarks.rows import generate_questions, read_rows, write_rows


@pytest.fixture
def rows_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("POSTTRAIN_DATA", str(tmp_path / "absent"))
    path = tmp_path / "rows.jsonl"
    assert write_rows(path) == "generated word problems"
    return path


def test_generated_answers_are_right_and_each_seed_gives_its_own_rows() -> None:
    for _, answer in generate_questions(seed=3, num_rows=50):
        sums = re.findall(r"<<(\d+)\+(\d+)=(\d+)>>", answer)
        assert sums
        assert all(int(a) + int(b) == int(c) for a, b, c in sums)
        assert answer.endswith(f"#### {sums[-1][2]}")
    assert list(generate_questions(seed=3, num_rows=5)) != list(generate_questions(seed=4, num_rows=5))


@pytest.mark.real_data
def test_gsm8k_is_read_where_it_is(real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTTRAIN_DATA", str(real_data))
    assert write_rows(tmp_path / "rows.jsonl") == "GSM8K train"
    first = read_rows(tmp_path / "rows.jsonl", 1)[0]
    assert first["prompt"][0]["content"].startswith("Natalia sold clips")
    assert first["completion"][0]["content"].endswith("#### 72")


def test_rows_start_over_where_the_file_ends(tmp_path: Path) -> None:
    path = tmp_path / "three.jsonl"
    path.write_text("".join(json.dumps({"row": number}) + "\n" for number in range(3)))
    assert [row["row"] for row in read_rows(path, 5)] == [0, 1, 2, 0, 1]


def test_the_tokenizer_renders_chatml_and_gives_text_back_exactly(rows_path: Path) -> None:
    tokenizer = build_tokenizer(rows_path)
    messages = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "é 4"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    assert text == f"{START}user\n2+2?{END}\n{START}assistant\né 4{END}\n"
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_the_same_seed_gives_the_same_weights_and_the_global_generator_is_left_alone(
    rows_path: Path, tmp_path: Path
) -> None:
    import torch

    tokenizer = build_tokenizer(rows_path)
    before = torch.random.get_rng_state()
    counts = [save_model("4m", tokenizer, tmp_path / name) for name in ("a", "b")]
    assert counts == [4_000_000, 4_000_000]
    assert torch.equal(before, torch.random.get_rng_state())
    hashes = [hashlib.sha256((tmp_path / name / "model.safetensors").read_bytes()).digest() for name in ("a", "b")]
    assert hashes[0] == hashes[1]
