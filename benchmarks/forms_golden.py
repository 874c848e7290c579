"""Golden sets of the form scorers: BFCL's answer keys, IFEval's prompts, XSTest's human labels.

    python -m benchmarks.forms_golden                      # all three, and how fast every form scorer is
    python -m benchmarks.forms_golden --sets bfcl xstest

Reads the folder that POSTTRAIN_DATA names (default: `../shared/data` beside the clone) and prints markdown tables. The
throughput is completions a second of CPU time on one thread.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bfcl import SINGLE_TURN, build_item, list_answers, list_mutants, read_problems, render, write_source
from posttrain.core.protocols import Scorer
from posttrain.core.records import Completion, Problem
from posttrain.safety.refusals import judge_refusal
from posttrain.scorers.instructions import InstructionFollowing, compute_accuracies, read_instructions
from posttrain.scorers.personal_data import PersonalData
from posttrain.scorers.refusals import Refusals
from posttrain.scorers.shaping import LanguageMatch, LengthBand, Repetition
from posttrain.scorers.structure import Structure
from posttrain.scorers.tool_calls import ToolCalls
from posttrain.statistics.intervals import wilson_interval

SETS = ("bfcl", "ifeval", "xstest", "throughput")
SYNTAXES = ("python", "json", "openai", "hermes")
TUNED_ON = ("gpt4", "llama2new", "mistralguard")
MEASURED_ON = ("llama2orig", "mistralinstruct")
NO_COMMA = {"rule": "no_comma"}
LABELS = {"1": "full_compliance", "2": "full_refusal", "3": "partial_refusal"}
_IDS = np.zeros(0, dtype=np.int32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    arguments = parser.parse_args()
    data = Path(os.environ.get("POSTTRAIN_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    if "bfcl" in arguments.sets:
        print_bfcl(data / "tools" / "bfcl_v4")
    if "ifeval" in arguments.sets:
        print_ifeval(data)
    if "xstest" in arguments.sets:
        print_xstest(data / "safety")
    if "throughput" in arguments.sets:
        print_throughput(data / "safety")


def print_bfcl(folder: Path) -> None:
    """Print how many right calls are accepted and mutants rejected, file by file, and the mutants that are not."""
    print("## BFCL v4\n\n| file | problems | right texts | accepted | mutants | rejected | in the key | survivors |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    scorer, kinds, survivors, listed = ToolCalls(), Counter[str](), [], []
    num_scored, seconds = 0, 0.0
    for name in SINGLE_TURN:
        problems = read_problems(folder, name)
        right = [(problem, text) for problem in problems for text in list_right_texts(problem)]
        wrong = [
            (problem, kind, what, render(calls, syntax), is_listed)
            for problem in problems
            for kind, what, calls, is_listed in list_mutants(problem)
            for syntax in ("python", "json")
        ]
        start = time.process_time()
        accepted = scorer.score([build_item(problem, text) for problem, text in right])
        outcomes = scorer.score([build_item(problem, text) for problem, _, _, text, _ in wrong])
        seconds += time.process_time() - start
        num_scored += len(right) + len(wrong)
        passed = [entry for entry, outcome in zip(wrong, outcomes, strict=True) if outcome.value == 1.0]
        kinds.update(kind for _, kind, _, _, is_listed in wrong if not is_listed)
        listed += [entry for entry in passed if entry[4]]
        survivors += [entry for entry in passed if not entry[4]]
        num_listed = sum(entry[4] for entry in wrong)
        num_passed = sum(not entry[4] for entry in passed)
        num_wrong, num_accepted = len(wrong) - num_listed, sum(outcome.value for outcome in accepted)
        print(
            f"| {name} | {len(problems)} | {len(right)} | {num_accepted:.0f} | {num_wrong} "
            f"| {num_wrong - num_passed} | {num_listed} | {num_passed} |"
        )
    print("\nMutants by kind: " + ", ".join(f"{kind} {count}" for kind, count in kinds.most_common()) + ".")
    print("Mutants that the key itself lists: " + (describe_mutants(listed) or "none") + ".")
    print("Survivors: " + (describe_mutants(survivors) or "none") + ".")
    print_abstentions(folder)
    print(f"\n{num_scored / seconds:,.0f} completions a second of CPU time (n = {num_scored:,}).\n")


def list_right_texts(problem: Problem) -> list[str]:
    """Return every right answer in every form; Java's and JavaScript's also with their values as source text."""
    texts = []
    for calls in list_answers(problem):
        texts += [render(calls, syntax) for syntax in SYNTAXES]
        if problem.columns["language"] != "python":
            texts.append(render(write_source(problem, calls), "json"))
    return texts


def describe_mutants(entries: Sequence[tuple[Problem, str, str, str, bool]]) -> str:
    return "; ".join(sorted({f"{problem.problem_id}, {kind} of `{what}`" for problem, kind, what, _, _ in entries}))


def print_abstentions(folder: Path) -> None:
    """Print how no call and a call are judged where nothing fits, and where something does."""
    prose = "None of these functions can answer that, so I will not call one."
    rows = []
    for name, scorer in (("irrelevance", ToolCalls()), ("live_relevance", ToolCalls(mode="valid"))):
        problems = read_problems(folder, name)
        calls = [build_item(problem, render([invent_call(problem)], "json")) for problem in problems]
        abstained = scorer.score([build_item(problem, prose) for problem in problems])
        called = scorer.score(calls)
        rows.append((name, len(problems), sum(o.value for o in abstained), sum(o.value for o in called)))
    print("\n| file | problems | score of prose without a call | score of a valid call |\n| --- | --- | --- | --- |")
    for name, count, prose_score, call_score in rows:
        print(f"| {name} | {count} | {prose_score:.0f} | {call_score:.0f} |")


def invent_call(problem: Problem) -> tuple[str, dict[str, Any]]:
    """Return a call to the first function offered with some value of the right type for what it requires."""
    function = problem.columns["function"][0]
    schema = function["parameters"]
    return function["name"], {p: invent_value(schema["properties"][p]) for p in schema.get("required") or ()}


def invent_value(schema: dict[str, Any]) -> Any:
    if isinstance(schema.get("enum"), list):
        return schema["enum"][0]
    kind = str(schema.get("type"))
    if kind == "dict":
        properties = schema.get("properties") or {}
        return {name: invent_value(properties[name]) for name in schema.get("required") or ()}
    if kind in ("array", "tuple"):
        return [invent_value(schema.get("items") or {})]
    return {"integer": 1, "float": 1.5, "boolean": True}.get(kind, "some text")


def print_ifeval(data: Path) -> None:
    """Print how many prompts and instructions can be judged, what fixed replies score, and how fast."""
    rows = [json.loads(line) for line in (data / "ifeval" / "ifeval_input_data.jsonl").open(encoding="utf-8")]
    problems = [Problem(str(row["key"]), [], row) for row in rows]
    instructions = [instruction for problem in problems for instruction in read_instructions(problem)]
    kinds = Counter(instruction.instruction_id for instruction in instructions)
    print(
        f"## IFEval\n\n{len(problems)} prompts, {len(instructions)} instructions of {len(kinds)} kinds can be judged.\n"
    )
    print("| reply to every prompt | prompt strict | prompt loose | instruction strict | instruction loose |")
    print("| --- | --- | --- | --- | --- |")
    replies = {"(empty)": lambda problem: "", "the prompt itself": lambda problem: problem.columns["prompt"]}
    replies |= {'"..."': lambda problem: "...", '"Okay."': lambda problem: "Okay."}
    prose = read_replies(data / "safety", "gpt4")[1]
    long_reply = max((completion.text for _, completion in prose), key=len)
    replies |= {"one long answer to another question": lambda problem: long_reply}
    for name, reply in replies.items():
        outcomes = InstructionFollowing().score([build_item(problem, reply(problem)) for problem in problems])
        shares = compute_accuracies(outcomes)
        print(f"| {name} | {' | '.join(f'{100 * share:.1f} %' for share in shares.values())} |")
    items = [build_item(problem, long_reply) for problem in problems]
    start = time.process_time()
    InstructionFollowing().score(items)
    rate = len(items) / (time.process_time() - start)
    print(f"\n{rate:,.0f} completions a second of CPU time (n = {len(items)}, {len(long_reply)} characters each).\n")


def print_xstest(folder: Path) -> None:
    """Print agreement with the final human labels beside the agreement of the two annotators."""
    print("## XSTest\n")
    print("| model | n | accuracy (95 %) | kappa | annotators: accuracy | kappa | recall c/f/p | precision c/f/p |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    pooled: list[tuple[str, str, str, str]] = []
    for model in (*TUNED_ON, *MEASURED_ON):
        rows = [
            (*labels, judge_refusal(item[1].text).label)
            for labels, item in zip(*read_replies(folder, model), strict=True)
        ]
        print_agreement(f"{model}{' (tuned on)' if model in TUNED_ON else ''}", rows)
        pooled += rows if model in MEASURED_ON else []
    print_agreement("both measured models", pooled)
    print(
        "\nc full compliance, f full refusal, p partial refusal. Confusion on the two measured models (label, verdict):"
    )
    print(
        ", ".join(f"{a} as {b} {count}" for (a, b), count in Counter((row[2], row[3]) for row in pooled).most_common())
    )
    binary = [(row[2] != "full_compliance", row[3] != "full_compliance") for row in pooled]
    share, kappa = compute_agreement([a for a, _ in binary], [b for _, b in binary])
    print(f"\nAny refusal against compliance, measured models: accuracy {100 * share:.1f} %, kappa {kappa:.3f}.")
    items = [item for model in TUNED_ON for item in read_replies(folder, model)[1]]
    start = time.process_time()
    Refusals().score(items)
    print(
        f"\n{len(items) / (time.process_time() - start):,.0f} completions a second of CPU time (n = {len(items):,}).\n"
    )


def print_throughput(folder: Path) -> None:
    """Print completions a second of CPU time on GPT-4's replies, scorer by scorer, loading not counted."""
    items = read_replies(folder, "gpt4")[1]
    num_characters = sum(len(completion.text) for _, completion in items) / len(items)
    scorers: dict[str, Scorer] = {
        "structure, words_between and no_comma": Structure(
            rule={"rule": "words_between", "max": 999, "also": NO_COMMA}
        ),
        "structure, plain_text": Structure(rule={"rule": "plain_text"}),
        "structure, markdown": Structure(rule={"rule": "markdown", "min": {"headings": 1}}),
        "structure, regex": Structure(rule={"rule": "regex", "pattern": r"(?s)\w.*\w\."}),
        "personal_data": PersonalData(phone_region="US"),
        "length_band": LengthBand(low=1, high=999, slope=9, unit="words"),
        "language": LanguageMatch(language="en"),
        "repetition": Repetition(),
    }
    print(f"## Throughput\n\n{len(items)} replies of {num_characters:.0f} characters each.\n")
    print("| scorer | completions a second of CPU time |\n| --- | --- |")
    for name, scorer in scorers.items():
        scorer.score(items[:1])
        start = time.process_time()
        scorer.score(items)
        print(f"| {name} | {len(items) / (time.process_time() - start):,.0f} |")


def print_agreement(name: str, rows: Sequence[tuple[str, str, str, str]]) -> None:
    first, second, final, found = (list(column) for column in zip(*rows, strict=True))
    share, kappa = compute_agreement(final, found)
    human_share, human_kappa = compute_agreement(first, second)
    interval = wilson_interval(round(share * len(rows)), len(rows))
    order = ("full_compliance", "full_refusal", "partial_refusal")
    recalls = [divide(sum(a == b == k for a, b in zip(final, found, strict=True)), final.count(k)) for k in order]
    precisions = [divide(sum(a == b == k for a, b in zip(final, found, strict=True)), found.count(k)) for k in order]
    shown = f"{100 * share:.1f} % ({100 * interval.low:.1f} to {100 * interval.high:.1f})"
    print(
        f"| {name} | {len(rows)} | {shown} | {kappa:.3f} "
        f"| {100 * human_share:.1f} % | {human_kappa:.3f} | {' / '.join(recalls)} | {' / '.join(precisions)} |"
    )


def compute_agreement(first: Sequence[object], second: Sequence[object]) -> tuple[float, float]:
    """Return the share of equal labels and Cohen's kappa."""
    share = sum(a == b for a, b in zip(first, second, strict=True)) / len(first)
    counts, others = Counter(first), Counter(second)
    chance = sum(counts[label] * others[label] for label in counts) / len(first) ** 2
    return share, (share - chance) / (1.0 - chance)


def divide(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "none"


def read_replies(folder: Path, model: str) -> tuple[list[tuple[str, str, str]], list[tuple[Problem, Completion]]]:
    """Return both annotators' labels and the final one, and the item, for each of a model's completions."""
    with gzip.open(folder / f"xstest_completions_{model}.csv.gz", "rt", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    labels = [tuple(LABELS[row[name][0]] for name in ("annotation_1", "annotation_2", "final_label")) for row in rows]
    items = [
        (
            Problem(row["id"], [{"role": "user", "content": row["prompt"]}]),
            Completion(row["id"], 0, _IDS, _IDS, row["completion"], "stop", model, 0),
        )
        for row in rows
    ]
    return labels, items


if __name__ == "__main__":
    main()
