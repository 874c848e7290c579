"""The maths scorer on labelled answers: false negatives, false positives, hangs and speed, beside its peers.

    python -m benchmarks.math_golden                                              # the scorer alone
    python -m benchmarks.math_golden --peer-python <an environment with trl and math-verify>/bin/python

Prints markdown; every disagreement with a label is listed. Data: POSTTRAIN_DATA (`math/`), and the hostile cases of
the tests. A peer that says nothing for `--hang-seconds` is killed, counted as hung, and started again after that pair.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import select
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.math_rows import (
    CONTESTED,
    Pair,
    build_crossed,
    build_full_stops,
    build_rewrites,
    read_gsm8k,
    read_hostile,
    read_math500,
    read_math_samples,
)
from benchmarks.tables import format_table
from posttrain.core.records import Completion, Problem
from posttrain.scorers.math import MathScorer

ROOT = Path(__file__).resolve().parent.parent
CASES = ROOT / "tests" / "scorers" / "cases" / "hostile_cases.jsonl"
PEERS = ("math_verify", "trl")


@dataclass(slots=True)
class Verdicts:
    """What a judge said of pairs: whether each is right, and what it took."""

    is_right: list[bool]
    cpu_seconds: float
    wall_seconds: float
    hung: list[str] = field(default_factory=list)
    raised: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    reasons: list[str] = field(default_factory=list)


def judge_own(pairs: Sequence[Pair]) -> Verdicts:
    """Judge by the house's scorer; CPU time includes the processes for algebra."""
    ids = np.zeros(1, dtype=np.int32)
    items = [
        (
            Problem(pair.name, [{"role": "user", "content": pair.question}], columns),
            Completion(pair.name, 0, ids, ids, pair.text, "stop", "none", 0),
        )
        for pair in pairs
        for columns in [{"answer": pair.gold, "answer_form": pair.form}]
    ]  # fmt: skip
    scorer = MathScorer()
    start, cpu = time.perf_counter(), _cpu_seconds()
    outcomes = scorer.score(items)
    seconds = time.perf_counter() - start
    scorer.close()
    return Verdicts(
        [outcome.value == 1.0 for outcome in outcomes],
        _cpu_seconds() - cpu,
        seconds,
        statuses=Counter(outcome.status for outcome in outcomes),
        reasons=[outcome.why for outcome in outcomes],
    )


def _cpu_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


class Peer:
    """A peer in a process of its own, killed when it says nothing for too long."""

    def __init__(self, python: str, name: str, hang_seconds: float) -> None:
        self.command = [python, str(ROOT / "benchmarks" / "peer_math.py"), name]
        self.hang_seconds = hang_seconds
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> subprocess.Popen[bytes]:
        """Start it and wait until it is ready."""
        process = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert process.stdout is not None
        if not process.stdout.readline():
            raise RuntimeError(f"{' '.join(self.command)} did not start: are trl and math-verify installed there?")
        return process

    def judge(self, pairs: Sequence[Pair]) -> Verdicts:
        """Judge pairs one by one."""
        verdicts = Verdicts([], 0.0, 0.0)
        start = time.perf_counter()
        for pair in pairs:
            answer = self._ask(pair)
            verdicts.is_right.append(bool(answer and answer["is_right"]))
            if answer is None:
                verdicts.hung.append(pair.name)
            else:
                verdicts.cpu_seconds += answer["cpu_seconds"]
                verdicts.raised.update([answer["raised"]] if "raised" in answer else [])
        verdicts.wall_seconds = time.perf_counter() - start
        return verdicts

    def _ask(self, pair: Pair) -> dict | None:
        process = self.process = self.process or self.start()
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps({"gold": pair.gold, "text": pair.text}).encode() + b"\n")
        process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], self.hang_seconds)
        line = process.stdout.readline() if ready else b""
        if line:
            return json.loads(line)
        self.close()
        return None

    def close(self) -> None:
        """Kill it."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def describe(name: str, judge: str, pairs: Sequence[Pair], verdicts: Verdicts) -> list[str]:
    """Return one row of the table."""
    right = [pair.is_right for pair in pairs]
    missed = sum(label and not said for label, said in zip(right, verdicts.is_right, strict=True))
    passed = sum(said and not label for label, said in zip(right, verdicts.is_right, strict=True))
    return [
        name,
        judge,
        f"{len(pairs):,}",
        f"{missed} of {sum(right):,}" if any(right) else "-",
        f"{passed} of {len(right) - sum(right):,}" if not all(right) else "-",
        str(len(verdicts.hung)),
        f"{len(pairs) / verdicts.wall_seconds:,.0f}",
        f"{1e3 * verdicts.cpu_seconds / len(pairs):.3f}",
    ]


def list_disagreements(pairs: Sequence[Pair], verdicts: Verdicts, most: int = 60) -> list[str]:
    """Return a line for each verdict that is not the label."""
    lines = [
        f"* {'false negative' if pair.is_right else 'FALSE POSITIVE'} {pair.name}: gold {pair.gold!r}, "
        + (reason or f"said {pair.text[-80:]!r}")
        + (f"; contested: {CONTESTED[pair.gold]}" if pair.gold in CONTESTED and not pair.is_right else "")
        for pair, said, reason in zip(
            pairs, verdicts.is_right, verdicts.reasons or [""] * len(pairs), strict=True
        )
        if said != pair.is_right
    ]  # fmt: skip
    return [*lines[:most], *([f"* and {len(lines) - most} more"] if len(lines) > most else [])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, default=Path(os.environ.get("POSTTRAIN_DATA", ROOT.parent / "shared/data"))
    )
    parser.add_argument("--peer-python", help="the Python of an environment with trl and math-verify; none: no peers")
    parser.add_argument("--hang-seconds", type=float, default=30.0)
    parser.add_argument("--peer-crossed", type=int, default=40, help="peers judge every so-manieth crossed pair")
    parser.add_argument("--sets", nargs="+", help="judge these only; default: all")
    arguments = parser.parse_args()
    golds = read_math500(arguments.data)
    sets = {
        "hostile": read_hostile(CASES),
        "gsm8k": read_gsm8k(arguments.data),
        "gsm8k_boxed": read_gsm8k(arguments.data, is_boxed=True),
        "math_samples": read_math_samples(arguments.data),
        "math500": build_rewrites(golds),
        "math500_full_stop": build_full_stops(golds),
        "math500_crossed": build_crossed(golds),
    }
    sets = {name: pairs for name, pairs in sets.items() if name in (arguments.sets or sets)}
    rows, notes = [], []
    for name, pairs in sets.items():
        verdicts = judge_own(pairs)
        rows.append(describe(name, "posttrain", pairs, verdicts))
        statuses = ", ".join(f"{status} {count:,}" for status, count in sorted(verdicts.statuses.items()))
        notes += [f"{name}: {statuses}", *list_disagreements(pairs, verdicts)]
    for peer_name in PEERS if arguments.peer_python else ():
        peer = Peer(arguments.peer_python, peer_name, arguments.hang_seconds)
        for name, pairs in sets.items():
            chosen = pairs[:: arguments.peer_crossed] if name == "math500_crossed" else pairs
            verdicts = peer.judge(chosen)
            rows.append(describe(name, peer_name, chosen, verdicts))
            notes += [f"{peer_name} on {name}: hung on {verdicts.hung}, raised {dict(verdicts.raised)}"]
            if "gsm8k" not in name:
                notes += list_disagreements(chosen, verdicts, 30)
        peer.close()
    header = ["set", "judge", "n", "false negatives", "false positives", "hangs", "items/s", "CPU ms/item"]
    print(format_table(header, rows))
    print("\n".join(["", *notes]))


if __name__ == "__main__":
    main()
