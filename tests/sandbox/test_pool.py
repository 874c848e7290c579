"""The pool: order kept, every limit costs its own job only, nothing is left behind."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from posttrain.core.errors import SandboxError
from posttrain.sandbox.limits import JobError, Limits
from posttrain.sandbox.pool import Pool

ENTRY = "tests.sandbox.jobs:do"
LIMITS = Limits(cpu_seconds=0.5, wall_seconds=60.0, memory_bytes=1 << 28, output_bytes=1 << 16)
IMPATIENT = Limits(cpu_seconds=30.0, wall_seconds=1.0, memory_bytes=1 << 28, output_bytes=1 << 16)
ROOMY = Limits(cpu_seconds=30.0, wall_seconds=60.0, memory_bytes=1 << 28, output_bytes=1 << 16)


def children() -> set[int]:
    """Return this process's children, zombies included."""
    found = set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[1]) == os.getpid():
                found.add(int(folder.name))
    return found


def echo(value: object) -> dict[str, object]:
    return {"act": "echo", "value": value}


def test_results_come_back_in_the_order_of_the_jobs() -> None:
    with Pool(ENTRY, num_workers=3, limits=ROOMY) as pool:
        jobs = [{"act": "cpu", "count": 200_000 if index % 7 == 0 else 10} for index in range(40)]
        assert pool.map(jobs) == [sum(range(job["count"])) for job in jobs]
        assert pool.map([]) == []


def test_json_values_survive_the_way_there_and_back() -> None:
    values = [None, True, 1.5, -3, "a\u0000b\n🦩\ud800 שלום", ["x", {"k": [1]}], "y" * 50_000]
    with Pool(ENTRY, limits=ROOMY) as pool:
        assert pool.map([echo(value) for value in values]) == values


def test_an_initial_value_is_handed_over_once_to_each_worker() -> None:
    with Pool("tests.sandbox.jobs:multiply", limits=ROOMY, initial=7) as pool:
        assert pool.map([1, 2, 3]) == [7, 14, 21]


@pytest.mark.parametrize(
    ("job", "kind", "text"),
    [
        ({"act": "spin"}, "timeout", "0.5 s of CPU"),
        ({"act": "hold"}, "timeout", "0.5 s of CPU"),
        ({"act": "eat", "bytes": 1 << 30}, "memory", "memory ran out"),
        ({"act": "grow"}, "memory", "memory ran out"),
        ({"act": "flood", "bytes": 1 << 17}, "output", "more than 65536"),
        ({"act": "die"}, "crash", "status 7"),
    ],
)
def test_a_job_that_breaks_a_limit_costs_itself_alone(job: dict[str, object], kind: str, text: str) -> None:
    with Pool(ENTRY, limits=LIMITS) as pool:
        before, broken, after = pool.map([echo(1), job, echo(2)])
        assert (before, after) == (1, 2)
        assert isinstance(broken, JobError)
        assert (broken.kind, broken.was_killed) == (kind, True)
        assert text in broken.message


@pytest.mark.parametrize("act", ["sleep", "fork"])
def test_a_job_that_blocks_is_killed_by_the_wall_clock(act: str) -> None:
    with Pool(ENTRY, limits=IMPATIENT) as pool:
        (blocked,) = pool.map([{"act": act}])
        assert (blocked.kind, blocked.was_killed) == ("timeout", True)
        assert "1 s of wall-clock" in blocked.message
        pool.limits = ROOMY
        assert pool.map([echo(2)]) == [2]


def test_a_jobs_own_exception_is_a_typed_answer_and_keeps_the_worker() -> None:
    with Pool(ENTRY, limits=ROOMY) as pool:
        first, missing, left, unwritable, second = pool.map(
            [{"act": "pid"}, {"act": "raise"}, {"act": "exit"}, {"act": "unwritable"}, {"act": "pid"}]
        )
        assert first == second
        assert [(e.kind, e.exception, e.was_killed) for e in (missing, left, unwritable)] == [
            ("raised", "KeyError", False),
            ("raised", "SystemExit", False),
            ("raised", "TypeError", False),
        ]
        assert missing.message == "'missing'"
        assert isinstance(missing, SandboxError)


def test_what_a_job_prints_does_not_reach_the_answers() -> None:
    with Pool(ENTRY, limits=ROOMY) as pool:
        assert pool.map([{"act": "print"}, echo("next")]) == ["quiet", "next"]


def test_workers_see_no_environment_of_the_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "planted")
    with Pool(ENTRY, limits=ROOMY) as pool:
        (names,) = pool.map([{"act": "environment"}])
    assert "HF_TOKEN" not in names and "HOME" not in names


def test_hanging_jobs_leave_the_pool_whole_and_no_zombies() -> None:
    """Twelve of them; two hundred in the soak below."""
    check_hangs(12)


@pytest.mark.soak
def test_two_hundred_hanging_jobs_leave_the_pool_whole_and_no_zombies() -> None:
    check_hangs(200)


def check_hangs(num_hangs: int) -> None:
    outside = children()
    limits = Limits(cpu_seconds=5.0, wall_seconds=0.1, memory_bytes=1 << 28, output_bytes=1 << 16)
    descriptors = len(os.listdir("/proc/self/fd"))
    pool = Pool(ENTRY, num_workers=4, limits=limits)
    results = pool.map([{"act": "fork" if index % 10 == 0 else "sleep"} for index in range(num_hangs)])
    assert [result.kind for result in results] == ["timeout"] * num_hangs
    assert len(children() - outside) <= 4  # none of the killed ones is left, not even as a zombie
    pool.limits = ROOMY  # the deadline of 0.1 s is for the hangs; an echo on a loaded machine may take longer
    assert pool.map([echo(index) for index in range(20)]) == list(range(20))
    pool.close()
    assert children() == outside
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_a_forgotten_pool_takes_its_workers_with_it() -> None:
    outside = children()
    pool = Pool(ENTRY, num_workers=2, limits=ROOMY)
    pool.map([echo(1), echo(2)])
    assert children() != outside
    del pool
    assert children() == outside


def test_a_pool_works_from_several_threads_at_once() -> None:
    results: dict[int, list[object]] = {}
    with Pool(ENTRY, num_workers=2, limits=ROOMY) as pool:

        def work(number: int) -> None:
            results[number] = pool.map([echo([number, index]) for index in range(20)])

        threads = [threading.Thread(target=work, args=(number,)) for number in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert results == {number: [[number, index] for index in range(20)] for number in range(5)}


def test_a_forked_process_starts_workers_of_its_own() -> None:
    with Pool(ENTRY, limits=ROOMY) as pool:
        (mine,) = pool.map([{"act": "pid"}])
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                (theirs,) = pool.map([{"act": "pid"}])
                pool.close()
                os.write(writer, str(theirs).encode())
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        assert int(os.read(reader, 100)) != mine
        os.close(reader)
        os.close(writer)
        assert pool.map([{"act": "pid"}]) == [mine]


def test_an_interrupted_map_leaves_no_stale_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    with Pool(ENTRY, limits=ROOMY) as pool:
        pool.map([echo("warm")])
        turn = pool._turn

        def interrupt(results: list[object]) -> int:
            raise KeyboardInterrupt

        monkeypatch.setattr(pool, "_turn", interrupt)
        with pytest.raises(KeyboardInterrupt):
            pool.map([echo("lost")])
        monkeypatch.setattr(pool, "_turn", turn)
        assert pool.map([echo("found")]) == ["found"]


def test_an_orphan_ends_itself() -> None:
    """The parent is killed while its worker sleeps: the worker's own timer ends it."""
    reader, writer = os.pipe()
    parent = os.fork()
    if parent == 0:
        try:
            pool = Pool(ENTRY, limits=Limits(cpu_seconds=1, wall_seconds=0.5, memory_bytes=1 << 28, output_bytes=1000))
            (worker,) = pool.map([{"act": "pid"}])
            os.write(writer, str(worker).encode())
            threading.Timer(0.1, lambda: os.kill(os.getpid(), 9)).start()
            pool.map([{"act": "sleep"}])
        finally:
            os._exit(1)
    worker = int(os.read(reader, 100))
    os.waitpid(parent, 0)
    os.close(reader)
    os.close(writer)
    patience = time.monotonic() + 30
    while Path(f"/proc/{worker}/stat").exists() and " Z " not in Path(f"/proc/{worker}/stat").read_text():
        assert time.monotonic() < patience, "the worker outlived its parent and its deadline"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ("tests.sandbox.jobs:nowhere", "AttributeError"),
        ("tests.sandbox.no_such_module:do", "ModuleNotFoundError"),
        ("tests.sandbox.jobs:not_a_function", "is not a function"),
    ],
)
def test_a_worker_that_cannot_start_is_an_error_with_its_reason(entry: str, text: str) -> None:
    outside = children()
    with Pool(entry, limits=ROOMY) as pool, pytest.raises(SandboxError, match=text):
        pool.map([1])
    assert children() == outside


def test_an_initial_value_that_is_refused_names_the_reason() -> None:
    with (
        Pool("tests.sandbox.jobs:refuse_to_start", limits=ROOMY, initial="x") as pool,
        pytest.raises(SandboxError, match="cannot start with x"),
    ):
        pool.map([1])


def test_limits_must_be_positive() -> None:
    with pytest.raises(ValueError, match="wall_seconds"):
        Limits(cpu_seconds=1, wall_seconds=0, memory_bytes=1, output_bytes=1)
    with pytest.raises(ValueError, match="num_workers"):
        Pool(ENTRY, num_workers=0, limits=LIMITS)
