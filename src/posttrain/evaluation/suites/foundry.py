"""Multiple choice as llm-foundry publishes it: ARC, OpenBookQA, PIQA, COPA, BoolQ, CommonsenseQA and Social IQa.

mosaicml/llm-foundry (scripts/eval/local_data, Apache-2.0) brought each to one form, which keeps the licence of its
source. A row:

    {"query": "Question: Which of these is a metal?", "choices": ["iron", "wood", "glass", "wool"], "gold": 0}

| benchmark | source | licence | what is weighed |
| --- | --- | --- | --- |
| `arc_easy`, `arc_challenge` | Clark et al. 2018, arXiv 1803.05457 | CC BY-SA 4.0 | the options' texts |
| `openbookqa` | Mihaylov et al. 2018, arXiv 1809.02789 | Apache-2.0 | how the sentence goes on |
| `piqa` | Bisk et al. 2020, arXiv 1911.11641 | AFL-3.0 | the two solutions |
| `copa` | Roemmele et al. 2011 | BSD-2-Clause | how the sentence goes on |
| `boolq` | Clark et al. 2019, arXiv 1905.10044 | CC BY-SA 3.0 | `no` and `yes` |
| `commonsense_qa` | Talmor et al. 2019, arXiv 1811.00937 | MIT | the letters of four options |
| `siqa` | Sap et al. 2019, arXiv 1904.09728 | not stated | the letters of two options |

Right is a row whose right choice is the likeliest: texts by byte, letters and single words as they are.

Traps: this form of CommonsenseQA has four of the five options, and of Social IQa two of the three, so that chance is
25 % and 50 % and published numbers do not compare. An option that stands in a question of ARC twice counts once. Rows
of a passage (BoolQ, Social IQa) are one cluster. ARC's two parts are of one source and differ in what
two simple solvers could answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from posttrain.evaluation.benchmark import Benchmark, PublishedFile, RowReader
from posttrain.evaluation.suites.reading import (
    mark_leaks,
    name_cluster,
    number_choices,
    take_place,
    take_text,
    take_texts,
)


def read_answered(row: Mapping[str, Any], file: PublishedFile) -> Iterable[dict[str, Any]]:
    """Return a question that an option answers, after `Answer:`."""
    del file
    query, choices = take_text(row, "query").strip(), _read_choices(row)
    right = choices["choices"]["text"][choices["answer"]]
    yield {"prompt": f"{query}\nAnswer:", **choices, **mark_leaks(_bare_question(query), [right])}


def read_continued(row: Mapping[str, Any], file: PublishedFile) -> Iterable[dict[str, Any]]:
    """Return the beginning of a sentence that an option goes on with."""
    del file
    yield {"prompt": take_text(row, "query").strip(), **_read_choices(row)}


def read_passage(row: Mapping[str, Any], file: PublishedFile) -> Iterable[dict[str, Any]]:
    """Return a question on a passage, which is its cluster."""
    for read in read_answered(row, file):
        yield {**read, "cluster_id": name_cluster(_cut_question(take_text(row, "query")))}


def read_lettered(row: Mapping[str, Any], file: PublishedFile) -> Iterable[dict[str, Any]]:
    """Return a question that ends in its options and `Answer:`; what stands before the question is its cluster."""
    del file
    query = take_text(row, "query").strip()
    choices = take_texts(row, "choices", at_least=2)
    if not query.endswith("Answer:") or not all(f"\n{letter}. " in query for letter in choices):
        raise ValueError("'query' does not show an option for each letter of 'choices', and end in 'Answer:'")
    right = choices[take_place(row, "gold", len(choices))]
    yield {
        "prompt": query,
        "choices": choices,
        "answer": right,
        "cluster_id": name_cluster(_cut_question(query)),
        **_read_lettered_leaks(query, right),
    }


def _read_choices(row: Mapping[str, Any]) -> dict[str, Any]:
    choices = take_texts(row, "choices", at_least=2)
    return number_choices(choices, take_place(row, "gold", len(choices)))


def _bare_question(query: str) -> str:
    """Return a query without the words that name its parts: a question, and the passage or context before it."""
    return _PART_NAME.sub("", query).strip() or query


def _read_lettered_leaks(query: str, right: str) -> dict[str, Any]:
    """Return the question above the options that a query lists, and the text after the right one's letter."""
    lines = query.splitlines()
    marks = [re.match(r"\s*\(?([A-Z])[.):]\s*(.+)", line) for line in lines]
    options = {mark[1]: mark[2] for mark in marks if mark}
    first = next((number for number, mark in enumerate(marks) if mark and mark[1] == "A"), len(lines))
    text = options.get(right.strip(" ().:"))
    return mark_leaks(_bare_question("\n".join(lines[:first])) or query, None if text is None else [text])


def _cut_question(query: str) -> str:
    """Return what stands before the question: a passage, or the whole where there is none."""
    return query.rpartition("\nQuestion:")[0] or query


_PART_NAME = re.compile(r"^(?:Passage|Context|Question|Choices):[ \t]*", re.MULTILINE)
_TEXTS = {"type": "choice", "form": "text"}
_WORDS = {"type": "choice", "form": "text", "normalisation": "sum"}
_LETTERS = {"type": "choice", "normalisation": "sum"}


# many parameters: the columns of the table above
def _build(
    name: str, about: str, source: str, licence: str, settings: Mapping[str, Any], read_row: RowReader, file: str
) -> Benchmark:
    files = {"test": (f"gates/{file}", file, file.removesuffix(".gz"))}
    return Benchmark(name, 1, about, f"{source} (llm-foundry's form)", licence, settings, read_row, files)


ARC_EASY = _build(
    "arc_easy", "science questions that simple solvers answer; the right option is the likeliest by byte",
    "Clark et al. 2018, arXiv 1803.05457", "CC BY-SA 4.0", _TEXTS, read_answered, "arc_easy.jsonl.gz",
)  # fmt: skip
ARC_CHALLENGE = _build(
    "arc_challenge", "science questions that simple solvers fail on; the right option is the likeliest by byte",
    "Clark et al. 2018, arXiv 1803.05457", "CC BY-SA 4.0", _TEXTS, read_answered, "arc_challenge.jsonl",
)  # fmt: skip
OPENBOOKQA = _build(
    "openbookqa", "facts of elementary science applied; the right continuation is the likeliest by byte",
    "Mihaylov et al. 2018, arXiv 1809.02789", "Apache-2.0", _TEXTS, read_continued, "openbook_qa.jsonl",
)  # fmt: skip
PIQA = _build(
    "piqa", "how to do something with things; the right one of two solutions is the likelier by byte",
    "Bisk et al. 2020, arXiv 1911.11641", "AFL-3.0", _TEXTS, read_answered, "piqa.jsonl.gz",
)  # fmt: skip
COPA = _build(
    "copa", "cause or effect of an event; the right one of two is the likelier by byte",
    "Roemmele et al. 2011", "BSD-2-Clause", _TEXTS, read_continued, "copa.jsonl",
)  # fmt: skip
BOOLQ = _build(
    "boolq", "yes or no to a question on a passage; the right word is the likelier",
    "Clark et al. 2019, arXiv 1905.10044", "CC BY-SA 3.0", _WORDS, read_passage, "boolq.jsonl.gz",
)  # fmt: skip
COMMONSENSE_QA = _build(
    "commonsense_qa", "everyday knowledge, four of the five options; the right letter is the likeliest",
    "Talmor et al. 2019, arXiv 1811.00937", "MIT", _LETTERS, read_lettered, "commonsense_qa.jsonl",
)  # fmt: skip
SIQA = _build(
    "siqa", "what people do and feel, two of the three options; the right letter is the likelier",
    "Sap et al. 2019, arXiv 1904.09728", "not stated", _LETTERS, read_lettered, "siqa.jsonl",
)  # fmt: skip
