"""Stored answers: whole or absent, one process asking at a time, and nothing paid twice across a kill."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from posttrain.core.errors import StorageError
from posttrain.core.sampling import SamplingSettings, derive_sample_seed
from posttrain.samplers.served import ServedSampler
from posttrain.samplers.served_cache import AnswerCache
from tests.samplers.endpoint import Call, Endpoint, build_problems, chat_answer, echo
from tests.samplers.served_driver import MAX_IN_FLIGHT

REPOSITORY = Path(__file__).resolve().parents[2]
SETTINGS = SamplingSettings(max_new_tokens=8)
KEYS = [f"{number:032x}" for number in (1 << 127, 5, 2**128 - 1)]
ANSWER = {"choices": [{"text": "ä \ud800 \U0001f600", "n": 1.5, "list": [None, True, -1e-3]}]}


def expected_texts(count):
    return {index: f"echo of question {index} with {derive_sample_seed(index, 0) % 2**31}" for index in range(count)}


def start(endpoint, folder, count, output):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY / "src"), str(REPOSITORY)])}
    command = [sys.executable, "-m", "tests.samplers.served_driver", endpoint.url, str(folder), str(count)]
    return subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=output)


def finish(process):
    assert process.wait(timeout=120) == 0


def read_found(path):
    return dict(map(json.loads, path.read_text().splitlines()))


def wait_until(holds):
    """Wait for something that must happen; nothing is concluded from how long it took."""
    end = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.002)


def test_an_answer_is_read_as_it_was_written_and_by_others_too(tmp_path):
    cache, other = AnswerCache(tmp_path / "new" / "folder"), AnswerCache(tmp_path / "new" / "folder")
    for key in KEYS:
        assert cache.read(key) is None
        cache.write(key, ANSWER)
        assert cache.read(key) == other.read(key) == ANSWER
    cache.write(KEYS[0], {"another": 1})
    assert other.read(KEYS[0]) == {"another": 1}
    assert cache.num_torn == 0


def damage(path: Path, kind: str) -> None:
    content = path.read_bytes()
    changed = {
        "empty": b"",
        "half": content[: len(content) // 2],
        "one byte less": content[:-3],
        "another digit": content.replace(b"1.5", b"1.6"),
        "no json": b"\xff" * 40,
        "no entry": b"[]",
        "deep": b"[" * 100_000,
        "zeros": b"\0" * len(content),
    }
    path.write_bytes(changed[kind])


@pytest.mark.parametrize(
    "kind", ["empty", "half", "one byte less", "another digit", "no json", "no entry", "deep", "zeros"]
)
def test_a_torn_or_changed_file_is_noticed_and_counts_as_absent(kind, tmp_path):
    cache = AnswerCache(tmp_path)
    cache.write(KEYS[0], ANSWER)
    cache.write(KEYS[1], ANSWER)
    damage(next(tmp_path.glob(f"*/{KEYS[0]}.json")), kind)
    assert cache.read(KEYS[0]) is None and cache.num_torn == 1
    assert cache.read(KEYS[1]) == ANSWER
    cache.write(KEYS[0], ANSWER)
    assert cache.read(KEYS[0]) == ANSWER


def test_any_flipped_bit_is_noticed(tmp_path):
    cache = AnswerCache(tmp_path)
    cache.write(KEYS[0], ANSWER)
    (path,) = tmp_path.glob("*/*.json")
    content, generator = path.read_bytes(), random.Random(0)
    for _ in range(150):
        place = generator.randrange(len(content) - 1)  # the last byte is the line's end
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << generator.randrange(8)]) + content[place + 1 :])
        assert cache.read(KEYS[0]) in (None, ANSWER)  # a blank between fields may change


def test_a_file_under_another_name_is_no_answer(tmp_path):
    cache = AnswerCache(tmp_path)
    cache.write(KEYS[0], ANSWER)
    (path,) = tmp_path.glob("*/*.json")
    other = tmp_path / KEYS[1][:2] / f"{KEYS[1]}.json"
    other.parent.mkdir(exist_ok=True)
    other.write_bytes(path.read_bytes())
    assert cache.read(KEYS[1]) is None


def test_one_caller_at_a_time_may_ask_for_an_answer(tmp_path):
    first, second = AnswerCache(tmp_path), AnswerCache(tmp_path)
    assert first.claim(KEYS[0]) and first.claim(KEYS[1])
    assert not first.claim(KEYS[0]) and not second.claim(KEYS[0])
    assert second.claim(KEYS[2])
    first.release(KEYS[0])
    assert second.claim(KEYS[0]) and not first.claim(KEYS[0])
    first.close()
    first.close()
    assert second.claim(KEYS[1])
    with pytest.raises(StorageError, match="closed"):
        first.claim(KEYS[0])


def test_a_folder_that_cannot_be_made_is_an_error_with_the_cure(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"(?s)could not write.*cure"):
        AnswerCache(tmp_path / "file" / "folder")


def test_leftovers_of_killed_writes_are_removed_once_they_are_old(tmp_path):
    cache = AnswerCache(tmp_path)
    cache.write(KEYS[0], ANSWER)
    shard = next(tmp_path.glob("*/*.json")).parent
    for name, age in ((".tmp-old", 1e6), (".tmp-young", 10)):
        (shard / name).write_text("")
        os.utime(shard / name, (time.time() - age,) * 2)
    AnswerCache(tmp_path)
    assert sorted(path.name for path in shard.iterdir()) == [".tmp-young", f"{KEYS[0]}.json"]


def test_a_damaged_answer_is_asked_for_again_and_mended(tmp_path):
    with Endpoint() as endpoint:
        served = endpoint.settings(cache=str(tmp_path))
        list(ServedSampler(served).sample(build_problems(5), SETTINGS, range(5)))
        damage(min(tmp_path.glob("*/*.json")), "half")
        for torn, calls in ((1, 6), (0, 6)):
            sampler = ServedSampler(served)
            found = {
                index: completion.text for index, completion in sampler.sample(build_problems(5), SETTINGS, range(5))
            }
            assert found == expected_texts(5)
            assert (sampler.num_torn, len(endpoint.calls)) == (torn, calls)


def test_a_stored_answer_belongs_to_the_weights_that_the_endpoint_claimed(tmp_path):
    models = {"data": [{"id": "tiny", "root": "/weights/1"}]}
    with Endpoint(models=models) as endpoint:
        served = endpoint.settings(cache=str(tmp_path))
        for root, calls in (("/weights/1", 2), ("/weights/2", 4), ("/weights/1", 4)):
            models["data"][0]["root"] = root
            list(ServedSampler(served).sample(build_problems(2), SETTINGS, range(2)))
            assert len(endpoint.calls) == calls


def test_equal_requests_of_one_call_are_paid_once(tmp_path):
    problems = build_problems(1) * 12
    with Endpoint() as endpoint:
        sampler = ServedSampler(endpoint.settings(cache=str(tmp_path)))
        found = list(sampler.sample(problems, SETTINGS, [7] * 12))
    assert sorted(index for index, _ in found) == list(range(12))
    assert len({completion.text for _, completion in found}) == len(endpoint.calls) == 1


def test_an_answer_that_cannot_be_stored_is_handed_over_before_the_error(tmp_path):
    with Endpoint() as endpoint:
        sampler = ServedSampler(endpoint.settings(cache=str(tmp_path)))
        for number in range(256):  # a file stands where each folder would
            (tmp_path / f"{number:02x}").write_text("")
        found = []
        with pytest.raises(StorageError):
            found.extend(sampler.sample(build_problems(9), SETTINGS, range(9)))
        assert 0 < len(found) == len(endpoint.calls)


def test_closing_while_an_answer_is_being_stored_loses_nothing(tmp_path, monkeypatch):
    write, begun = AnswerCache.write, threading.Semaphore(0)

    def write_slowly(cache, key, answer):
        begun.release()
        time.sleep(0.05)
        write(cache, key, answer)

    monkeypatch.setattr(AnswerCache, "write", write_slowly)
    with Endpoint() as endpoint:
        sampler = ServedSampler(endpoint.settings(cache=str(tmp_path), limits={"max_in_flight": 1}))
        stream = sampler.sample(build_problems(30), SETTINGS, range(30))
        next(stream)
        for _ in range(3):  # the third answer is being stored
            assert begun.acquire(timeout=60)
        stream.close()
        num_stored = len(list(tmp_path.glob("*/*.json")))
        assert num_stored >= 3 and len(endpoint.calls) - num_stored <= 1


def test_two_hundred_requests_killed_in_the_middle_are_each_paid_once_where_the_kill_hits_no_answer(tmp_path):
    """The endpoint answers 77 and lets the others wait, unpaid; the process is killed and started again."""

    def respond(call: Call) -> None:
        with lock:
            is_paid = len(paid) < 77 or restarted.is_set()
            if is_paid:
                paid.append(call)
        if is_paid:
            call.answer()
        else:
            endpoint.released.wait()

    lock, paid, restarted = threading.Lock(), [], threading.Event()
    with Endpoint(respond) as endpoint, (tmp_path / "out").open("w") as output:
        process = start(endpoint, tmp_path / "answers", 200, output)
        # Every answer is stored and the next requests wait when all of these hold.
        wait_until(lambda: len(list(tmp_path.glob("answers/*/*.json"))) == 77)
        wait_until(lambda: len(endpoint.calls) == 77 + MAX_IN_FLIGHT)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        restarted.set()
        with (tmp_path / "again").open("w") as again:
            finish(start(endpoint, tmp_path / "answers", 200, again))
        assert read_found(tmp_path / "again") == expected_texts(200)
        assert len(paid) == 200
        assert len({json.dumps(call.body) for call in paid}) == 200


@pytest.mark.parametrize("num_before_kill", [5, 120])
def test_a_kill_at_any_time_has_at_most_the_requests_in_flight_paid_twice_and_no_stored_one(num_before_kill, tmp_path):
    """Every request is paid as it arrives; those whose answers were not stored at the kill are paid again."""
    with Endpoint() as endpoint, (tmp_path / "out").open("w") as output:
        process = start(endpoint, tmp_path / "answers", 200, output)
        wait_until(lambda: len(endpoint.calls) >= num_before_kill)
        process.send_signal(signal.SIGKILL)
        process.wait()
        cache = AnswerCache(tmp_path / "answers")
        answers = [cache.read(path.stem) for path in tmp_path.glob("answers/*/*.json")]
        stored = {answer["choices"][0]["message"]["content"] for answer in answers}
        with (tmp_path / "again").open("w") as again:
            finish(start(endpoint, tmp_path / "answers", 200, again))
        assert read_found(tmp_path / "again") == expected_texts(200)
        times = Counter(echo(call.body) for call in endpoint.calls)
        twice = {text for text, count in times.items() if count > 1}
        assert set(times) == set(expected_texts(200).values()) and max(times.values()) <= 2
        assert len(twice) <= MAX_IN_FLIGHT and not twice & stored


def test_three_processes_that_share_a_folder_pay_for_each_answer_once_together(tmp_path):
    with Endpoint() as endpoint:
        files = [(tmp_path / f"out {number}").open("w") for number in range(3)]
        processes = [start(endpoint, tmp_path / "answers", 100, file) for file in files]
        for process, file in zip(processes, files, strict=True):
            finish(process)
            file.close()
            assert read_found(Path(file.name)) == expected_texts(100)
        assert len(endpoint.calls) == len({echo(call.body) for call in endpoint.calls}) == 100


def test_a_process_takes_over_what_a_killed_one_was_asking_for(tmp_path):
    """The kernel frees the claims of a killed process, so whoever waits for its answers asks for them itself."""

    def respond(call: Call) -> None:
        if not endpoint.released.is_set():
            endpoint.released.wait()
        call.reply(chat_answer("late"))

    with Endpoint(respond) as endpoint, (tmp_path / "out").open("w") as output, (tmp_path / "other").open("w") as other:
        first = start(endpoint, tmp_path / "answers", MAX_IN_FLIGHT, output)
        wait_until(lambda: len(endpoint.calls) == MAX_IN_FLIGHT)
        second = start(endpoint, tmp_path / "answers", MAX_IN_FLIGHT, other)
        first.send_signal(signal.SIGKILL)
        first.wait()
        wait_until(lambda: len(endpoint.calls) == 2 * MAX_IN_FLIGHT)
        endpoint.released.set()
        finish(second)
    assert set(read_found(tmp_path / "other")) == set(range(MAX_IN_FLIGHT))
