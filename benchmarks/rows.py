"""The rows both sides train on: GSM8K from POSTTRAIN_DATA, or word problems made on the spot where it is absent."""

from __future__ import annotations

import gzip
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

GSM8K = Path("math") / "gsm8k_train.jsonl.gz"
NAMES = ("Ada", "Bela", "Chidi", "Dana", "Emre", "Farah", "Goran", "Hana")
THINGS = ("apples", "stamps", "marbles", "pencils", "tickets", "shells", "coins", "cards")


def read_questions() -> tuple[str, Iterator[tuple[str, str]]]:
    """Return the name of the source, and pairs of question and worked answer."""
    folder = Path(os.environ.get("POSTTRAIN_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    if (folder / GSM8K).is_file():
        return "GSM8K train", _read_gsm8k(folder / GSM8K)
    return "generated word problems", generate_questions(seed=0)


def _read_gsm8k(path: Path) -> Iterator[tuple[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            yield row["question"], row["answer"]


def generate_questions(*, seed: int, num_rows: int = 7500) -> Iterator[tuple[str, str]]:
    """Yield word problems of 2 to 6 steps, about as long as GSM8K's (165 tokens of its own vocabulary)."""
    generator = random.Random(seed)
    for _ in range(num_rows):
        name, thing = generator.choice(NAMES), generator.choice(THINGS)
        total = generator.randint(5, 99)
        question, answer = [f"{name} has {total} {thing}."], []
        for _ in range(generator.randint(2, 6)):
            other, change = generator.choice(NAMES), generator.randint(2, 60)
            question.append(f"Then {other} brings {change} more {thing} in a box and puts them beside the others.")
            answer.append(f"With those of {other} there are {total} + {change} = <<{total}+{change}={total + change}>>")
            answer[-1] += f"{total + change} {thing}."
            total += change
        question.append(f"How many {thing} does {name} have in the end?")
        yield " ".join(question), "\n".join([*answer, f"#### {total}"])


def write_rows(path: Path) -> str:
    """Write all rows as conversational prompt-completion JSON lines; return the name of their source."""
    source, questions = read_questions()
    with path.open("w", encoding="utf-8") as file:
        for question, answer in questions:
            row = {
                "prompt": [{"role": "user", "content": question}],
                "completion": [{"role": "assistant", "content": answer}],
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return source


def read_rows(path: Path, count: int) -> list[dict[str, list[dict[str, str]]]]:
    """Return the first `count` rows, starting over where the file ends."""
    with path.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [rows[index % len(rows)] for index in range(count)]
