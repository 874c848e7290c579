"""HellaSwag: how a scene or a how-to goes on, one true ending and three that a model wrote and people saw through.

Zellers et al. 2019, "HellaSwag: Can a Machine Really Finish Your Sentence?", arXiv 1905.07830 (rowanz/hellaswag, MIT).
A row of the plain form (klosax/hellaswag_text_data), activity and context in one text:

    {"context": "Making tea: A woman fills a kettle. she", "label": 2,
     "endings": ["paints the kettle.", "eats the tea.", "puts it on the stove.", "dives into the sea."]}

Right is a row whose true ending is the likeliest by byte (`acc_norm` of other harnesses).

Traps: the test labels are not public, so this is the validation set. Contexts from videos break off inside a sentence,
those of WikiHow at its end; many items are ungrammatical or have two good endings (Chizhov et al. 2025, arXiv
2504.07825). Rows that have one context are one cluster.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from posttrain.evaluation.benchmark import Benchmark, PublishedFile
from posttrain.evaluation.suites.reading import name_cluster, number_choices, take_place, take_text, take_texts


def read_row(row: Mapping[str, Any], file: PublishedFile) -> Iterable[dict[str, Any]]:
    """Return the context with its endings."""
    del file
    context, endings = take_text(row, "context").strip(), take_texts(row, "endings", at_least=2)
    choices = number_choices(endings, take_place(row, "label", len(endings)))
    yield {"prompt": context, **choices, "cluster_id": name_cluster(context)}


HELLASWAG = Benchmark(
    name="hellaswag",
    version=1,
    about="how a scene goes on; the true ending of four is the likeliest by byte",
    source="Zellers et al. 2019, arXiv 1905.07830",
    licence="MIT",
    settings={"type": "choice", "form": "text"},
    read_row=read_row,
    files={"test": ("gates/hellaswag_val.jsonl.gz", "hellaswag_val.jsonl")},
)
