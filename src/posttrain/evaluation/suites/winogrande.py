"""WinoGrande and the Winograd schemas: which of two names or things a sentence means, by its second half.

Sakaguchi et al. 2020, "WinoGrande: An Adversarial Winograd Schema Challenge at Scale", arXiv 1907.10641
(allenai/winogrande, CC BY 4.0); Levesque et al. 2012, "The Winograd Schema Challenge" (273 schemas, CC BY 4.0). A row
of llm-foundry's form:

    {"context_options": ["The cup fell off the shelf since the cup", "The cup fell off the shelf since the shelf"],
     "continuation": "stood near the edge.", "gold": 0}

Partial evaluation (Trinh & Le 2018, arXiv 1806.02847): the continuation, which is the same for both, is weighed after
either context, and right is the context that makes it likelier. The options themselves are not weighed, so that a name
that is common has no advantage. The columns `contexts` and `continuation` say so to the task; `choices` are the names.

Traps: the test labels of WinoGrande are not public, this is the validation set. Sentences come in twins that differ in
one word and have the other answer; the twin's other half is sometimes left out. Twins share both contexts and are one
cluster.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from posttrain.evaluation.benchmark import Benchmark, PublishedFile
from posttrain.evaluation.suites.reading import name_cluster, number_choices, take_place, take_text, take_texts


def read_row(row: Mapping[str, Any], file: PublishedFile) -> Iterable[dict[str, Any]]:
    """Return the sentence with a gap as prompt, the two things that fill it, and the contexts with either."""
    del file
    contexts, continuation = take_texts(row, "context_options"), take_text(row, "continuation").strip()
    if len(contexts) != 2 or contexts[0] == contexts[1]:
        raise ValueError("'context_options' are not two different texts")
    same = next((place for place, (a, b) in enumerate(zip(*contexts, strict=False)) if a != b), min(map(len, contexts)))
    before = contexts[0][: contexts[0].rfind(" ", 0, same) + 1]
    choices = number_choices([text[len(before) :] for text in contexts], take_place(row, "gold", 2))
    yield {
        "prompt": f"{before}_ {continuation}",
        **choices,
        "contexts": [text.strip() for text in contexts],
        "continuation": continuation,
        "cluster_id": name_cluster(*sorted(contexts)),
    }


_SETTINGS = {"type": "choice", "form": "text", "normalisation": "sum"}

WINOGRANDE = Benchmark(
    name="winogrande",
    version=1,
    about="which of two a sentence means; its second half is likelier after the right one",
    source="Sakaguchi et al. 2020, arXiv 1907.10641 (llm-foundry's form)",
    licence="CC BY 4.0",
    settings=_SETTINGS,
    read_row=read_row,
    files={"test": ("gates/winogrande.jsonl", "winogrande.jsonl")},
)
WINOGRAD = Benchmark(
    name="winograd",
    version=1,
    about="the 273 Winograd schemas; the second half is likelier after the right one of two",
    source="Levesque et al. 2012 (llm-foundry's form)",
    licence="CC BY 4.0",
    settings=_SETTINGS,
    read_row=read_row,
    files={"test": ("gates/winograd_wsc.jsonl", "winograd_wsc.jsonl")},
)
