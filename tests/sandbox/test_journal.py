"""The journal: what was judged once is judged so ever after, also after a crash, and never wrongly."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from posttrain.core.errors import StorageError
from posttrain.sandbox.journal import MAGIC, Journal, JournalledPool, make_key
from posttrain.sandbox.programs import Program, ProgramLimits, ProgramResult
from posttrain.sandbox.running import ProgramPool

LIMITS = ProgramLimits()
PROGRAM = Program("def f(x):\n    return x", entry="f", args=([1, (2.5, {"a"})],), kwargs={"y": None}, stdin="in")


class FakePool:
    """Answers with the number of the answer, or a failure of the sandbox for a program that says `broken`."""

    tier = "landlock"
    limits = LIMITS

    def __init__(self) -> None:
        self.asked: list[Program] = []

    def run(self, programs: Sequence[Program], limits: ProgramLimits | None = None) -> list[ProgramResult]:
        start = len(self.asked)
        self.asked += programs
        return [
            ProgramResult("sandbox_error") if program.source == "broken" else ProgramResult("ok", start + number, "out")
            for number, program in enumerate(programs)
        ]


def make_results(count: int) -> dict[bytes, ProgramResult]:
    kinds = ("ok", "raised", "timeout", "memory", "crash", "output", "bad_record")
    return {
        make_key(replace(PROGRAM, stdin=str(number)), LIMITS, "landlock"): ProgramResult(
            kinds[number % 7], [number, (1.5, {"x": b"\xff"})], "ü\ud800" * number, "why", 0.25
        )
        for number in range(count)
    }


def write(path: Path, results: dict[bytes, ProgramResult]) -> None:
    with Journal(path) as journal:
        for key, result in results.items():
            journal.add(key, result)


def read(path: Path, keys: Sequence[bytes]) -> list[ProgramResult | None]:
    with Journal(path) as journal:
        return [journal.find(key) for key in keys]


def test_results_come_back_whole_from_a_reopened_journal(tmp_path: Path) -> None:
    results = make_results(20)
    write(tmp_path / "deep" / "verdicts", results)
    assert read(tmp_path / "deep" / "verdicts", list(results)) == list(results.values())


def test_a_key_keeps_its_first_result(tmp_path: Path) -> None:
    (key,) = make_results(1)
    with Journal(tmp_path / "j") as journal:
        journal.add(key, ProgramResult("timeout"))
        journal.add(key, ProgramResult("ok"))
        assert journal.find(key) == ProgramResult("timeout")
        assert len(journal) == 1


@pytest.mark.parametrize(
    "other",
    [replace(PROGRAM, source="def f(x):\n    return x "), replace(PROGRAM, entry=None), replace(PROGRAM, entry="g"),
     replace(PROGRAM, args=([1, (2.5, {"b"})],)), replace(PROGRAM, args=([1, [2.5, {"a"}]],)),
     replace(PROGRAM, args=([True, (2.5, {"a"})],)), replace(PROGRAM, kwargs={}), replace(PROGRAM, stdin="")],
)  # fmt: skip
def test_whatever_changes_in_a_program_changes_its_key(other: Program) -> None:
    assert make_key(other, LIMITS, "landlock") != make_key(PROGRAM, LIMITS, "landlock")


def test_limits_and_tier_are_part_of_the_key() -> None:
    keys = {make_key(PROGRAM, replace(LIMITS, **{name: 7}), "landlock") for name in LIMITS.__slots__}
    keys |= {make_key(PROGRAM, LIMITS, tier) for tier in ("landlock", "bubblewrap")}
    assert len(keys) == 6
    assert make_key(replace(PROGRAM), replace(LIMITS), "landlock") in keys


def test_a_journal_cut_anywhere_gives_the_whole_records_before_the_cut_and_goes_on(tmp_path: Path) -> None:
    results = make_results(6)
    path = tmp_path / "j"
    write(path, results)
    content = path.read_bytes()
    ends = []
    for count in range(7):
        write(tmp_path / f"part{count}", dict(list(results.items())[:count]))
        ends.append((tmp_path / f"part{count}").stat().st_size)
    keys = list(results)
    for cut in range(len(content)):
        path.write_bytes(content[:cut])
        whole = max((count for count, end in enumerate(ends) if end <= cut), default=0)
        with Journal(path) as journal:
            assert len(journal) == whole
            assert [journal.find(key) for key in keys[:whole]] == list(results.values())[:whole]
            journal.add(keys[whole], results[keys[whole]])
        assert read(path, keys[: whole + 1]) == list(results.values())[: whole + 1]


def test_a_flipped_bit_never_gives_another_result(tmp_path: Path) -> None:
    results = make_results(6)
    path = tmp_path / "j"
    write(path, results)
    content = path.read_bytes()
    generator = random.Random(5)
    for place in generator.sample(range(len(MAGIC), len(content)), 200):
        damaged = bytearray(content)
        damaged[place] ^= 1 << generator.randrange(8)
        path.write_bytes(damaged)
        for found, expected in zip(read(path, list(results)), results.values(), strict=True):
            assert found in (None, expected)


def test_another_file_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("my notes, longer than the first line of a journal")
    with pytest.raises(StorageError, match="no journal of verdicts"):
        Journal(tmp_path / "notes")
    assert (tmp_path / "notes").read_text().startswith("my notes")


def test_a_second_writer_is_refused_until_the_first_has_closed(tmp_path: Path) -> None:
    with Journal(tmp_path / "j"), pytest.raises(StorageError, match="another process is writing"):
        Journal(tmp_path / "j")
    Journal(tmp_path / "j").close()


def test_a_forked_process_may_read_and_not_write(tmp_path: Path) -> None:
    results = make_results(2)
    first, second = results
    with Journal(tmp_path / "j") as journal:
        journal.add(first, results[first])
        process = os.fork()
        if process == 0:
            status = 1
            try:
                assert journal.find(first) == results[first]
                journal.add(second, results[second])
            except StorageError:
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(process, 0)[1] == 0
        journal.add(second, results[second])
    assert read(tmp_path / "j", list(results)) == list(results.values())


def test_threads_may_add_at_once(tmp_path: Path) -> None:
    results = make_results(200)
    with Journal(tmp_path / "j") as journal, ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda pair: journal.add(*pair), results.items()))
    assert read(tmp_path / "j", list(results)) == list(results.values())


def test_a_pool_with_a_journal_runs_each_program_once_ever(tmp_path: Path) -> None:
    one, two, three = (Program(f"print({number})") for number in range(3))
    first, second = FakePool(), FakePool()
    with Journal(tmp_path / "j") as journal:
        pool = JournalledPool(first, journal)  # type: ignore[arg-type]
        assert [result.value for result in pool.run([one, two, one])] == [0, 1, 0]
        assert first.asked == [one, two]
    with Journal(tmp_path / "j") as journal:
        pool = JournalledPool(second, journal)  # type: ignore[arg-type]
        assert [result.value for result in pool.run([two, three, one])] == [1, 0, 0]
        assert second.asked == [three]
        pool.run([one], ProgramLimits(cpu_seconds=9))
        assert second.asked == [three, one]


def test_what_the_sandbox_failed_at_is_tried_again(tmp_path: Path) -> None:
    fake = FakePool()
    with Journal(tmp_path / "j") as journal:
        pool = JournalledPool(fake, journal)  # type: ignore[arg-type]
        for _ in range(2):
            assert pool.run([Program("broken")])[0].status == "sandbox_error"
    assert len(fake.asked) == 2


def test_a_resumed_run_sees_what_the_first_one_saw_of_a_program_that_depends_on_chance(tmp_path: Path) -> None:
    program = Program("import os\ndef f(): return os.urandom(8)", entry="f")
    values = []
    for _ in range(2):
        with ProgramPool(1, tier="landlock") as pool, Journal(tmp_path / "j") as journal:
            values.append(JournalledPool(pool, journal).run([program])[0].value)
    assert values[0] == values[1] and len(values[0]) == 8
