"""LAMBADA: the last word of a passage from a novel, which people guess from the passage and not from its last sentence.

Paperno et al. 2016, "The LAMBADA dataset: Word prediction requiring a broad discourse context", arXiv 1606.06031
(CC BY 4.0), in the untokenized form of Radford et al. 2019. A row of llm-foundry's form:

    {"context": "Ann looked for her keys. In the end it was Tom who had taken Ann's", "continuation": "keys"}

The metric is what the policy gives the last word: `perplexity` by token, and `token_probability`. The share of passages
whose last word a policy would write itself, the other published metric, is not measured: what it writes has no end
there that could be judged.

Traps: the passage is rendered as what a user says and the word as the reply, so that the chat template is part of what
is measured and published perplexities, of plain text, do not compare. Numbers by token depend on the tokenizer,
`bits_per_byte` does less. The passages are from books that most web corpora hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from posttrain.evaluation.benchmark import Benchmark, PublishedFile
from posttrain.evaluation.suites.reading import take_text


def read_row(row: Mapping[str, Any], file: PublishedFile) -> Iterable[dict[str, Any]]:
    """Return the passage as prompt and its last word as the text that is weighed."""
    del file
    yield {"prompt": take_text(row, "context").strip(), "completion": take_text(row, "continuation").strip()}


LAMBADA = Benchmark(
    name="lambada",
    version=1,
    about="the last word of a passage; how likely it is",
    source="Paperno et al. 2016, arXiv 1606.06031 (llm-foundry's form)",
    licence="CC BY 4.0",
    settings={"type": "perplexity"},
    read_row=read_row,
    files={"test": ("gates/lambada_openai.jsonl.gz", "lambada_openai.jsonl", "lambada_test.jsonl")},
)
