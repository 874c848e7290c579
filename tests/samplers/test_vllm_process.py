"""vLLM's process over a stand-in: every failure has its type, and nothing is ever left behind."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from posttrain.core.errors import SamplerError
from posttrain.core.records import Problem
from posttrain.core.sampling import PolicyVersion, SamplingSettings
from posttrain.samplers.vllm_process import VllmError, VllmProcess
from posttrain.samplers.vllm_settings import VllmSettings
from tests.samplers.vllm_parts import build_sampler, build_settings, draw, is_alive, pids_of, wait_until, write_policy

LONG = SamplingSettings(max_new_tokens=100)


@pytest.fixture
def policy(tmp_path: Path) -> PolicyVersion:
    return PolicyVersion("first", folder=write_policy(tmp_path / "policy", 3))


def assert_nothing_left(pids: list[int], scratch: Path) -> None:
    assert len(pids) >= 2
    assert wait_until(lambda: not any(is_alive(pid) for pid in pids)), pids
    assert wait_until(lambda: not scratch.exists())


@pytest.mark.parametrize(
    ("faults", "kind", "words"),
    [
        ({"version": "0.31.1"}, "version", "vLLM 0.31.1"),
        ({"start_error": "memory"}, "memory", "no memory is left"),
        ({"start_error": "cache"}, "memory", "KV cache is needed"),
        ({"start_error": "model"}, "model", "OddForCausalLM"),
    ],
)
def test_a_start_that_fails_is_told_by_kind(policy: PolicyVersion, faults: dict, kind: str, words: str) -> None:
    with pytest.raises(VllmError, match=words) as caught:
        build_sampler(policy, faults)
    assert caught.value.kind == kind
    assert caught.value.exit_code == 7 and isinstance(caught.value, SamplerError)


def test_a_python_that_is_not_there_or_has_no_vllm_is_told(tmp_path: Path) -> None:
    with pytest.raises(VllmError, match="No such file") as caught:
        VllmProcess(VllmSettings(tmp_path / "nowhere" / "python", scratch_folder=tmp_path))
    assert caught.value.kind == "python"
    process = VllmProcess(VllmSettings(Path(sys.executable), scratch_folder=tmp_path))
    with pytest.raises(VllmError, match="No module named 'vllm'") as caught:
        process.start({})
    assert caught.value.kind == "python"
    assert list(tmp_path.iterdir()) == []


def test_an_engine_that_is_not_ready_in_time_is_ended(policy: PolicyVersion) -> None:
    with pytest.raises(VllmError, match="no sign for 1 s") as caught:
        build_sampler(policy, {"start_seconds": 1000}, start_timeout_seconds=1.0)
    assert caught.value.kind == "stalled"


def test_an_engine_that_takes_no_step_is_ended(policy: PolicyVersion) -> None:
    sampler = build_sampler(policy, {"step_seconds": 0.0})
    pids = pids_of(sampler)
    object.__setattr__(sampler._process._settings, "stall_timeout_seconds", 1.0)
    os.kill(pids[1], signal.SIGSTOP)
    with pytest.raises(VllmError, match="no sign for 1 s"):
        draw(sampler, LONG)
    assert_nothing_left(pids, sampler._process.scratch)


def test_an_engine_that_dies_while_it_draws_leaves_its_last_words(policy: PolicyVersion) -> None:
    sampler = build_sampler(policy, {"die_after": 20})
    pids = pids_of(sampler)
    with pytest.raises(VllmError, match="about to die") as caught:
        draw(sampler, LONG)
    assert caught.value.kind == "died" and "SIGKILL" in caught.value.found and "memory" in caught.value.cure
    assert_nothing_left(pids, sampler._process.scratch)
    with pytest.raises(VllmError, match="about to die"):
        draw(sampler, LONG)
    with pytest.raises(VllmError, match="about to die"):
        sampler.publish(PolicyVersion("second", model=5))
    sampler.close()


def test_an_error_inside_the_engine_is_told(policy: PolicyVersion) -> None:
    sampler = build_sampler(policy, {"raise_after": 20})
    with pytest.raises(VllmError, match="the kernel has failed") as caught:
        draw(sampler, LONG)
    assert caught.value.kind == "died" and "Traceback" in caught.value.found


@pytest.mark.parametrize("victim", [0, 1])
def test_whoever_of_vllms_processes_is_killed_the_draw_fails_and_nothing_is_left(
    policy: PolicyVersion, victim: int
) -> None:
    sampler = build_sampler(policy, {"step_seconds": 0.02})
    pids = pids_of(sampler)
    threading.Timer(0.2, os.kill, (pids[victim], signal.SIGKILL)).start()
    with pytest.raises(VllmError, match="ended by itself") as caught:
        draw(sampler, LONG)
    assert caught.value.kind == "died"
    assert_nothing_left(pids, sampler._process.scratch)


def test_closing_ends_everything_also_what_left_the_engines_group(policy: PolicyVersion, tmp_path: Path) -> None:
    sampler = build_sampler(policy, {"spawn": str(tmp_path / "pid")})
    pids = [*pids_of(sampler), int((tmp_path / "pid").read_text())]
    sampler.close()
    sampler.close()
    assert not any(is_alive(pid) for pid in pids)
    assert not sampler._process.scratch.exists()
    with pytest.raises(VllmError, match="was closed") as caught:
        draw(sampler, LONG)
    assert caught.value.kind == "closed"


def test_closing_from_another_thread_ends_a_draw(policy: PolicyVersion) -> None:
    sampler = build_sampler(policy, {"step_seconds": 0.02})
    threading.Timer(0.2, sampler.close).start()
    with pytest.raises(VllmError, match="was closed"):
        draw(sampler, LONG)


def test_a_sampler_that_is_forgotten_ends_its_process(policy: PolicyVersion) -> None:
    sampler = build_sampler(policy)
    pids, scratch = pids_of(sampler), sampler._process.scratch
    del sampler
    gc.collect()
    assert_nothing_left(pids, scratch)


OWNER = """
import json, os, signal, sys, time
from pathlib import Path
from posttrain.core.sampling import PolicyVersion, SamplingSettings
from posttrain.core.records import Problem
from tests.samplers.vllm_parts import build_sampler, pids_of
folder, faults = Path(sys.argv[1]), json.loads(sys.argv[2])
sampler = build_sampler(PolicyVersion("first", folder=folder), faults)
pids = pids_of(sampler)
print(json.dumps([pids, str(sampler._process.scratch)]), flush=True)
if faults.get("ends"):
    sys.exit(0)
problems = [Problem("p0", [])] * 4
for _ in sampler.sample(problems, SamplingSettings(max_new_tokens=100), [1] * 4):
    time.sleep(1000)
"""


@pytest.mark.parametrize("ending", ["SIGKILL", "SIGTERM", "exit"])
def test_when_the_owner_is_gone_nothing_of_vllm_is_left(policy: PolicyVersion, tmp_path: Path, ending: str) -> None:
    faults = {"step_seconds": 0.05, "spawn": str(tmp_path / "pid"), "ends": ending == "exit"}
    command = [sys.executable, "-c", OWNER, str(policy.folder), json.dumps(faults)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        pids, scratch = json.loads(owner.stdout.readline())
        pids.append(int((tmp_path / "pid").read_text()))
        if ending != "exit":
            assert all(is_alive(pid) for pid in pids)
            time.sleep(0.2)
            owner.send_signal(signal.Signals[ending])
        owner.wait(60)
    assert_nothing_left(pids, Path(scratch))


def test_a_forked_copy_of_a_sampler_leaves_the_process_alone(policy: PolicyVersion) -> None:
    sampler = build_sampler(policy)
    child = os.fork()
    if not child:
        sampler.close()
        os._exit(0)
    os.waitpid(child, 0)
    assert len(draw(sampler, SamplingSettings(max_new_tokens=3))) == 3
    sampler.close()


def test_many_large_requests_and_answers_wait_for_no_one(policy: PolicyVersion) -> None:
    """More bytes both ways than two pipes hold, while nobody reads for a while."""
    sampler = build_sampler(policy)
    settings = SamplingSettings(max_new_tokens=60, top_logprobs=20)
    draws = sampler.sample([Problem("p1", [])] * 400, settings, range(400))
    first = next(draws)
    time.sleep(0.3)
    assert len([first, *draws]) == 400
    sampler.close()


def test_the_engine_sees_neither_this_processs_import_path_nor_the_file_named_vllm_beside_its_script(
    policy: PolicyVersion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other" / "vllm").mkdir(parents=True)
    (tmp_path / "other" / "vllm" / "__init__.py").write_text("raise RuntimeError('another vllm')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "other"))
    process = VllmProcess(build_settings())
    info = process.start({"model": str(policy.folder), "max_model_len": 99, "enforce_eager": None})
    assert (info.version, info.context_tokens, info.is_seeded) == ("0.32.0", 99, True)
    process.close()
