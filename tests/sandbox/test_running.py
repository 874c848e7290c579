"""The pool itself: order, threads, forks, event loops, servers that die, and what is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from posttrain.sandbox import fleet as fleet_module
from posttrain.sandbox.fleet import MAX_ATTEMPTS, Fleet
from posttrain.sandbox.launching import ServerHandle, ServerStartError, choose_user
from posttrain.sandbox.plain_data import PlainDataError
from posttrain.sandbox.programs import Program, ProgramLimits, ProgramResult
from posttrain.sandbox.running import ProgramPool
from tests.sandbox.test_pool import children

LIMITS = ProgramLimits(cpu_seconds=5.0, wall_seconds=60.0, memory_bytes=128 << 20, output_bytes=1 << 16)
BRIEF = ProgramLimits(cpu_seconds=0.05, wall_seconds=0.3, memory_bytes=128 << 20, output_bytes=1 << 12)


def squares(count: int, start: int = 0) -> list[Program]:
    return [Program("def f(x):\n    return x * x", entry="f", args=(number,)) for number in range(start, start + count)]


def make_pool(num_servers: int = 2, limits: ProgramLimits = LIMITS) -> ProgramPool:
    return ProgramPool(num_servers, tier="landlock", limits=limits)


def count_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_results_come_in_the_order_of_the_programs() -> None:
    slow = "def f(x):\n    return x + 0 * sum(range(200_000))"
    programs = [
        Program(slow if number % 7 == 0 else "def f(x):\n    return x", entry="f", args=(number,))
        for number in range(60)
    ]
    with make_pool(3) as pool:
        assert [result.value for result in pool.run(programs)] == list(range(60))
        assert pool.run([]) == []


def test_an_argument_that_is_no_plain_data_is_refused_before_anything_runs() -> None:
    with make_pool(1) as pool, pytest.raises(PlainDataError, match="no plain data"):
        pool.run([Program("print(1)"), Program("def f(x): pass", entry="f", args=(object(),))])


@pytest.mark.parametrize("settings", [{"num_servers": 0}, {"tier": "gvisor"}, {"tier": "unsafe"}])
def test_settings_that_cannot_be_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"num_servers|tier"):
        ProgramPool(**settings)  # type: ignore[arg-type]


def test_nothing_starts_before_the_first_run_and_nothing_is_left_after_closing() -> None:
    before, descriptors = children(), count_descriptors()
    pool = make_pool(2)
    assert children() == before
    pool.run(squares(10))
    assert len(children() - before) == 2
    pool.close()
    assert children() == before
    assert count_descriptors() == descriptors
    assert pool.run(squares(1))[0].value == 0  # a later run starts fresh servers
    pool.close()
    assert (children(), count_descriptors()) == (before, descriptors)


def test_a_pool_that_is_collected_leaves_nothing() -> None:
    before = children()
    pool = make_pool(1)
    pool.run(squares(1))
    del pool
    gc.collect()
    assert children() == before


def test_threads_share_a_pool() -> None:
    with make_pool(2) as pool, ThreadPoolExecutor(8) as threads:
        runs = [threads.submit(pool.run, squares(20, 100 * number)) for number in range(8)]
        for number, run in enumerate(runs):
            assert [result.value for result in run.result()] == [x * x for x in range(100 * number, 100 * number + 20)]


def test_a_long_run_lets_a_short_one_through() -> None:
    done: list[str] = []
    with make_pool(1) as pool:
        pool.run(squares(1))
        long = threading.Thread(target=lambda: (pool.run(squares(1500)), done.append("long")))
        long.start()
        time.sleep(0.05)
        pool.run(squares(3))
        done.append("short")
        long.join()
    assert done == ["short", "long"]


def test_a_pool_works_beside_and_inside_an_event_loop() -> None:
    async def main() -> list[object]:
        with make_pool(2) as pool:
            inside = pool.run(squares(3))
            beside = await asyncio.gather(*[asyncio.to_thread(pool.run, squares(5, 10)) for _ in range(3)])
            return [[result.value for result in results] for results in (inside, *beside)]

    assert asyncio.run(main()) == [[0, 1, 4], *[[100, 121, 144, 169, 196]] * 3]


def test_a_thread_that_started_the_servers_may_end() -> None:
    with make_pool(1) as pool:
        thread = threading.Thread(target=pool.run, args=(squares(1),))
        thread.start()
        thread.join()
        time.sleep(0.1)
        server = next(iter(pool._fleet._all))  # type: ignore[union-attr]
        assert pool.run(squares(2))[1].value == 1
        assert server.process.poll() is None


def run_in_fork(pool: ProgramPool, queue: multiprocessing.Queue[object]) -> None:
    results = pool.run(squares(5))
    queue.put([result.value for result in results])
    pool.close()


def test_a_forked_process_has_servers_of_its_own_and_leaves_its_parents_alone() -> None:
    context = multiprocessing.get_context("fork")
    with make_pool(1) as pool:
        pool.run(squares(1))
        queue: multiprocessing.Queue[object] = context.Queue()
        processes = [context.Process(target=run_in_fork, args=(pool, queue)) for _ in range(3)]
        for process in processes:
            process.start()
        assert pool.run(squares(5))[4].value == 16
        assert [queue.get(timeout=60) for _ in processes] == [[0, 1, 4, 9, 16]] * 3
        for process in processes:
            process.join()
            assert process.exitcode == 0
        assert pool.run(squares(3))[2].value == 4


def test_a_pool_can_be_used_first_in_a_forked_process_while_a_thread_here_holds_its_lock() -> None:
    context = multiprocessing.get_context("fork")
    pool = make_pool(1)
    with pool._lock:
        queue: multiprocessing.Queue[object] = context.Queue()
        process = context.Process(target=run_in_fork, args=(pool, queue))
        process.start()
        assert queue.get(timeout=60) == [0, 1, 4, 9, 16]
        process.join()


def test_servers_end_when_their_pools_process_is_killed() -> None:
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        pool = make_pool(2)
        running = threading.Thread(target=pool.run, args=([Program("import time\ntime.sleep(50)")] * 2,), daemon=True)
        pool.run(squares(4))
        running.start()
        time.sleep(0.3)
        os.write(writing, " ".join(str(server.process.pid) for server in pool._fleet._all).encode())  # type: ignore[union-attr]
        time.sleep(50)
        os._exit(1)
    servers = [int(word) for word in os.read(reading, 100).split()]
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    deadline = time.monotonic() + 30
    while any(is_running(server) for server in servers):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert len(servers) == 2
    os.close(reading)
    os.close(writing)


def is_running(process: int) -> bool:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return False


def test_a_program_whose_server_dies_is_run_again_on_a_fresh_one() -> None:
    with make_pool(1) as pool:
        pool.run(squares(1))
        (server,) = pool._fleet._all  # type: ignore[union-attr]
        killer = threading.Timer(0.2, server.process.kill)
        killer.start()
        result = pool.run([Program("import time\ntime.sleep(0.6)\nprint('done')")])[0]
        assert (result.status, result.stdout) == ("ok", "done\n")
        server.process.wait()


def test_a_program_whose_servers_die_every_time_is_the_fault_of_the_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[ServerHandle] = []
    begin = fleet_module.Check.begin

    def die(check: fleet_module.Check, server: ServerHandle, request: bytes) -> None:
        if "unlucky" in check.program.source:
            begun.append(server)
            os.killpg(server.process.pid, signal.SIGKILL)
            server.process.wait()
        begin(check, server, request)

    monkeypatch.setattr(fleet_module.Check, "begin", die)
    before = children()
    with make_pool(2) as pool:
        results = pool.run([*squares(3), Program("print('unlucky')"), *squares(3)])
    assert [result.status for result in results] == ["ok"] * 3 + ["sandbox_error"] + ["ok"] * 3
    assert len(set(begun)) == len(begun) == MAX_ATTEMPTS
    assert children() == before


def test_servers_that_cannot_start_any_more_are_the_fault_of_the_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = Fleet("landlock", 1)

    def refuse(tier: str) -> ServerHandle:
        raise ServerStartError("there is no room")

    monkeypatch.setattr(fleet_module, "ServerHandle", refuse)
    results = fleet.run(squares(2), [LIMITS] * 2)
    assert [(result.status, result.why) for result in results] == [("sandbox_error", "there is no room")] * 2


def test_a_server_that_hangs_is_given_up() -> None:
    limits = ProgramLimits(cpu_seconds=0.5, wall_seconds=0.5, memory_bytes=1 << 27, output_bytes=1 << 12)
    with make_pool(1, limits) as pool:
        pool.run(squares(1))
        (server,) = pool._fleet._all  # type: ignore[union-attr]
        os.kill(server.process.pid, signal.SIGSTOP)
        run = fleet_module._Run(pool._fleet, squares(1), [limits])  # type: ignore[arg-type]
        run.begin_next()
        run.checks[server].deadline = time.monotonic()
        run.go()
        assert run.results[0].value == 0
        assert server.process.poll() is not None


def test_a_program_that_was_stopped_together_with_its_server_is_not_timed_out() -> None:
    """As where a machine sleeps, or a debugger or a scheduler of batch jobs stops everything."""
    limits = ProgramLimits(cpu_seconds=5.0, wall_seconds=1.0, memory_bytes=1 << 27, output_bytes=1 << 12)
    with make_pool(1, limits) as pool:
        pool.run(squares(1))
        (server,) = pool._fleet._all  # type: ignore[union-attr]
        source = "import os, time\nos.write(1, b'x')\nfor _ in range(10): time.sleep(0.05)\nprint('done')"
        run = threading.Thread(target=lambda: results.extend(pool.run([Program(source)])))
        results: list[ProgramResult] = []
        run.start()
        time.sleep(0.2)
        (child,) = list_children(server.process.pid)
        for process in (server.process.pid, child):
            os.kill(process, signal.SIGSTOP)
        time.sleep(1.5)
        for process in (child, server.process.pid):
            os.kill(process, signal.SIGCONT)
        run.join()
    assert [(result.status, result.stdout) for result in results] == [("ok", "xdone\n")]


def list_children(process: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def test_hangs_cost_their_deadline_and_leave_no_zombie() -> None:
    before = children()
    with make_pool(2, BRIEF) as pool:
        pool.run(squares(2))
        servers = set(pool._fleet._all)  # type: ignore[union-attr]
        results = pool.run([Program("import time\ntime.sleep(99)"), Program("while True: pass")] * 4)
        assert {result.status for result in results} == {"timeout"}
        assert pool.run(squares(2))[1].value == 1
        assert set(pool._fleet._all) == servers  # type: ignore[union-attr]
        assert len(children() - before) == 2
    assert children() == before


def test_an_interrupted_run_ends_what_it_had_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    before = children()
    with make_pool(2) as pool:
        pool.run(squares(2))

        def interrupt(run: fleet_module._Run, server: ServerHandle, report: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(fleet_module._Run, "finish", interrupt)
            with pytest.raises(KeyboardInterrupt):
                pool.run([*squares(1), Program("import time\ntime.sleep(50)")])
        assert pool.run(squares(3))[2].value == 4
    assert children() == before


def test_the_user_that_root_chooses_is_nobodys() -> None:
    users = {choose_user() for _ in range(20)}
    assert len(users) > 1
    assert all(20_000 <= user < 2_000_000_000 and user != 65_534 for user in users)


INHERITED = """
import os, resource, signal, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM, signal.SIGCHLD})
resource.setrlimit(resource.RLIMIT_NOFILE, (50, 50))
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
os.umask(0o777)
from posttrain.sandbox.programs import Program
from posttrain.sandbox.running import ProgramPool
program = Program('''
import os, resource, signal, time
def f():
    caught = []
    signal.signal(signal.SIGALRM, lambda *_: caught.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    time.sleep(0.1)
    return [caught, signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, len(os.sched_getaffinity(0)),
            resource.getrlimit(resource.RLIMIT_NOFILE), os.WIFEXITED(0)]
''', entry="f")
with ProgramPool(tier="landlock") as pool:
    result = pool.run([program])[0]
    print(result.status, result.value, pool.num_servers)
"""


def test_what_the_pools_process_has_set_for_itself_does_not_reach_programs() -> None:
    """Ignored and blocked signals, a lower limit on descriptors, one processor, a strict umask."""
    done = subprocess.run([sys.executable, "-c", INHERITED], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "ok [[1], True, 1, (50, 50), True] 1\n", done.stderr


def test_the_example_in_the_documentation_works(capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "sandbox.md").read_text(encoding="utf-8")
    exec(text.split("```python\n")[1].split("```")[0], {})
    assert capsys.readouterr().out.split()[:2] == ["3", "hello"]
