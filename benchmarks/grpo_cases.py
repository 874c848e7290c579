"""What GRPO gains from each of its techniques: two recipes that differ in one key. Imports nothing large.

`4m` cases train random weights on the benchmark's own prompts (`benchmarks.grpo_work`), `lab` ones a policy of the lab
on its questions, where what the scorer says is true.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.grpo_work import GROUP_SIZE, LEARNING_RATE, NEW_TOKENS, PROBLEMS, compute_reward, reward_completions
from benchmarks.rows import read_rows

LONG_PROMPT_CHARACTERS = 2700  # about 700 tokens of the benchmark's vocabulary
WAITING_SECONDS = 0.005

OWN = {
    "algorithm": "grpo",
    "kl": "none",
    "data": "rows.jsonl",
    "scorer": "grpo_code.py:reward_completions",
    "problems_per_step": PROBLEMS,
    "group_size": GROUP_SIZE,
    "max_new_tokens": NEW_TOKENS,
    "learning_rate": LEARNING_RATE,
}
LAB = {
    "algorithm": "dapo",
    "data": "lab:arithmetic",
    "scorer": "lab",
    "problems_per_step": 32,
    "group_size": 8,
    "max_new_tokens": 96,
    "learning_rate": 5e-5,
}


@dataclass(frozen=True, slots=True)
class Case:
    """A technique and its absence.

    `stage` are the keys of both, `used` and `unused` those that differ. With `is_lab` the policy is one of the lab's;
    with `measured` rows, its pass rate on that many held-out questions is taken before and after.
    """

    title: str
    used: Mapping[str, Any]
    unused: Mapping[str, Any]
    stage: Mapping[str, Any] = field(default_factory=lambda: OWN)
    is_lab: bool = False
    steps: int = 5
    measured: int = 0

    @property
    def sides(self) -> dict[str, Mapping[str, Any]]:
        """The stage's keys of each side."""
        return {"on": {**self.stage, **self.used}, "off": {**self.stage, **self.unused}}


CASES = {
    "sharing": Case("prompts shared in the update (about 80 tokens)", {}, {"share_prompts": "off"}),
    "sharing-long": Case(
        "prompts shared in the update (about 700 tokens)",
        {},
        {"share_prompts": "off"},
        {**OWN, "data": "long_rows.jsonl"},
        steps=4,
    ),
    "settled": Case(
        "groups without an advantage skipped (about half are)",
        {},
        {"skip_settled": False},
        {**OWN, "scorer": "grpo_code.py:reward_half_of_prompts"},
    ),
    "waves": Case(
        "problems drawn until enough groups tell",
        {"max_waves": 4},
        {},
        {**LAB, "data": "lab:logic", "group_size": 4},
        True,
        steps=25,
        measured=550,
    ),
    "overlap-code": Case(
        "programs judged while others are drawn",
        {},
        {"overlap_scoring": False},
        {**LAB, "data": "lab:code"},
        True,
    ),
    "overlap-waiting": Case(
        f"a judge elsewhere ({WAITING_SECONDS * 1000:g} ms a completion) asked while others are drawn",
        {},
        {"overlap_scoring": False},
        {**LAB, "scorer": "grpo_code.py:wait_and_reward"},
        True,
    ),
}


def reward_half_of_prompts(completions: Sequence[str], prompts: Sequence[Any], **columns: Any) -> list[float]:
    """Return rewards that are all equal within about half of the groups, chosen by the prompt's text."""
    del columns
    pairs = zip(prompts, completions, strict=True)
    return [compute_reward(text) if compute_reward(str(prompt)) < 0.5 else 1.0 for prompt, text in pairs]


def wait_and_reward(completions: Sequence[str], **columns: Any) -> list[float]:
    """Return rewards after as long as a judge elsewhere takes that answers one question at a time."""
    del columns
    time.sleep(WAITING_SECONDS * len(completions))
    return reward_completions(completions)


def write_long_rows(folder: Path, count: int) -> None:
    """Write prompts of several questions end to end, beside the rows that they are made of."""
    rows = iter(read_rows(folder / "rows.jsonl", count * 40))
    with (folder / "long_rows.jsonl").open("w", encoding="utf-8") as file:
        for _ in range(count):
            text = ""
            while len(text) < LONG_PROMPT_CHARACTERS:
                text += next(rows)["prompt"][0]["content"] + "\n"
            file.write(json.dumps({"prompt": [{"role": "user", "content": text}]}, ensure_ascii=False) + "\n")
