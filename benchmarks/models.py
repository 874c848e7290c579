"""The models both sides train: random weights in Llama shapes, with a BPE tokenizer made from the rows.

    python -m benchmarks.models --folder .cache/benchmarks

writes `rows.jsonl`, `4m/` (4.0 M parameters) and `135m/` (134.5 M, the shape of SmolLM-135M). For a GPU there are
`0.5b` (494 M, the widths and vocabulary of Qwen2.5-0.5B) and `1.2b` (1,236 M, those of Llama-3.2-1B), with
`--shapes`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.rows import write_rows

VOCABULARY = 4096
PAD, BOS, START, END = "<|pad|>", "<|bos|>", "<|im_start|>", "<|im_end|>"
TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SHAPES: dict[str, dict[str, int]] = {
    "4m": {
        "vocab_size": VOCABULARY,
        "hidden_size": 256,
        "intermediate_size": 704,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
    },
    "135m": {
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
    },
    "0.5b": {
        "vocab_size": 151936,
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
    },
    "1.2b": {
        "vocab_size": 128256,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
}
CPU_SHAPES = ("4m", "135m")  # those that a machine without a GPU trains within minutes
BATCH_SIZES = {"4m": 16, "135m": 4, "0.5b": 96, "1.2b": 96}
MICRO_BATCH_TOKENS = {
    "4m": 8192,
    "135m": 8192,
    "0.5b": 32768,
    "1.2b": 32768,
}  # ours; a batch of either side is one pass
MAX_LENGTH = 512
LEARNING_RATE = 1e-3


def build_tokenizer(rows_path: Path) -> Any:
    """Return a byte-level BPE tokenizer of 4,096 entries trained on the rows, with a ChatML template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    with rows_path.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    texts = [row["prompt"][0]["content"] + "\n" + row["completion"][0]["content"] for row in rows]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, BOS, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END)
    wrapped.chat_template = TEMPLATE
    return wrapped


def save_model(shape: str, tokenizer: Any, folder: Path) -> int:
    """Write a model of a shape with random weights from seed 0, and its tokenizer; return its parameters."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(
        **SHAPES[shape],
        tie_word_embeddings=True,
        max_position_embeddings=2048,
        pad_token_id=tokenizer.convert_tokens_to_ids(PAD),
        bos_token_id=tokenizer.convert_tokens_to_ids(BOS),
        eos_token_id=tokenizer.convert_tokens_to_ids(END),
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


def prepare(folder: Path, shapes: list[str]) -> dict[str, Any]:
    """Write rows and models that are not there yet; return what they are."""
    folder.mkdir(parents=True, exist_ok=True)
    facts_path = folder / "facts.json"
    facts: dict[str, Any] = json.loads(facts_path.read_text()) if facts_path.is_file() else {}
    rows_path = folder / "rows.jsonl"
    if "source" not in facts or not rows_path.is_file():
        facts = {"source": write_rows(rows_path), "parameters": {}}
    missing = [shape for shape in shapes if shape not in facts["parameters"]]
    if missing:
        tokenizer = build_tokenizer(rows_path)
        for shape in missing:
            facts["parameters"][shape] = save_model(shape, tokenizer, folder / shape)
    facts_path.write_text(json.dumps(facts, indent=2) + "\n")
    return facts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--shapes", nargs="+", choices=sorted(SHAPES), default=CPU_SHAPES)
    arguments = parser.parse_args()
    print(json.dumps(prepare(arguments.folder, arguments.shapes)))


if __name__ == "__main__":
    main()
