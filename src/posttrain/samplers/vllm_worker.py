"""The process that holds vLLM's engine: one script that vLLM's own Python runs, standard library and vllm alone.

    vllm-python vllm_worker.py OWNER_PID SCRATCH_FOLDER      frames on descriptors 0 and 1, all output to 2

Frames are a 4-byte length and JSON text (`sandbox/worker.py` has the same). The process that is started
keeps watch, and its child holds the engine: the keeper ends the engine and everything that the engine
started when it is asked to (SIGTERM), when its owner is gone, or when the engine has died, and reaps it
all. Requests are `start`, `draw`, `cancel`, `score` and `load`. `start`, `draw`, `score` and `load`
carry an `id` that their answer (`ready`, `drawn` or `refused`, `scored`, `loaded`) repeats; unasked come
`hello`, `alive` (some step was taken), and `failed`, after which the process ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import signal
import struct
import sys
import threading
import time
import traceback
from typing import Any, BinaryIO, NoReturn

HEADER = struct.Struct(">I")
HEARTBEAT_SECONDS = 1.0
MESSAGE_CHARACTERS = 4000
_WATCH_SECONDS = 0.5
_REAP_SECONDS = 10.0
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER: orphans of the engine become children of the keeper
_CPU_CACHE_BYTES = 4 << 30  # vLLM's own share of a machine's memory would be nearly all of it


def pack_frame(value: Any) -> bytes:
    """Return a value as one frame."""
    content = json.dumps(value, separators=(",", ":")).encode("ascii")
    return HEADER.pack(len(content)) + content


def read_frame(file: BinaryIO) -> Any | None:
    """Return the next frame's value, or None where the other side has closed."""
    header = file.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    (length,) = HEADER.unpack(header)
    content = file.read(length)
    return json.loads(content) if len(content) == length else None


def keep_watch(engine: int, owner: int, scratch: str) -> int:
    """Wait for the engine's end, the owner's end or a request to end; leave nothing running; return a status.

    The status is the engine's: its exit code, or 128 and the signal that ended it.
    """
    with contextlib.suppress(ImportError, OSError, AttributeError):
        import ctypes

        ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
    # The pipes belong to the engine: its owner must see them close when it dies.
    for descriptor in (0, 1):
        os.close(descriptor)
    while True:
        asked = signal.sigtimedwait([signal.SIGCHLD, signal.SIGTERM], _WATCH_SECONDS)
        is_orphan = os.getppid() != owner
        if is_orphan:
            shutil.rmtree(scratch, ignore_errors=True)
        if is_orphan or (asked is not None and asked.si_signo == signal.SIGTERM):
            break
        if os.waitid(os.P_PID, engine, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            break
    return end_family(engine)


def end_family(engine: int) -> int:
    """Kill the engine's group and every other descendant, reap them all, and return the engine's status."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # PermissionError: a group of zombies only
        os.killpg(engine, signal.SIGKILL)
    status, deadline = 0, time.monotonic() + _REAP_SECONDS
    while time.monotonic() < deadline:
        for child in _list_children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        try:
            ended, code = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            break
        if ended == engine:
            code = os.waitstatus_to_exitcode(code)
            status = code if code >= 0 else 128 - code
        elif not ended:
            time.sleep(0.01)
    return status


def _list_children() -> list[int]:
    with contextlib.suppress(OSError), open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
        return [int(word) for word in file.read().split()]
    return []


def complete_arguments(arguments: dict[str, Any], *, is_cpu: bool) -> dict[str, Any]:
    """Return the engine's arguments with what depends on the machine filled in, where nothing is said of it."""
    completed = dict(arguments)
    if completed["enforce_eager"] is None:
        completed["enforce_eager"] = is_cpu
    if is_cpu:
        if completed.get("kv_cache_memory_bytes") is None:
            completed["kv_cache_memory_bytes"] = _CPU_CACHE_BYTES
        completed.setdefault("enable_chunked_prefill", False)  # see `EngineHost._check_seeds`
    return completed


class WrongVersionError(Exception):
    """A vLLM that this script was not written for; the message is its version."""


class EngineHost:
    """vLLM's engine in this process, one step at a time."""

    def __init__(self, message: dict[str, Any]) -> None:
        started = time.monotonic()
        import vllm

        version = str(vllm.__version__)
        if not version.startswith(message["version"]):
            raise WrongVersionError(version)
        from vllm.platforms import current_platform
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.llm_engine import LLMEngine

        self.is_cpu = bool(current_platform.is_cpu())
        arguments = vllm.EngineArgs(**complete_arguments(message["arguments"], is_cpu=self.is_cpu))
        self.engine = LLMEngine.from_engine_args(arguments, usage_context=UsageContext.LLM_CLASS)
        # Draws under a constraint: prompt, number of top log-probs, and the answer once it lacks nothing else.
        self._constrained: dict[int, tuple[list[int], int, dict[str, Any] | None]] = {}
        config = self.engine.vllm_config.model_config
        self.about = {
            "version": version,
            "context_tokens": int(config.max_model_len),
            "vocabulary_size": int(config.get_vocab_size()),
            "is_seeded": self._check_seeds(),
            "seconds": time.monotonic() - started,
        }

    @property
    def is_busy(self) -> bool:
        """Whether some request is not finished."""
        return bool(self.engine.has_unfinished_requests())

    def add(self, number: int, ids: list[int], parameters: dict[str, Any], constraint: dict[str, str] | None) -> None:
        """Queue one request; what vLLM refuses it raises here, and nothing is queued."""
        from vllm import SamplingParams
        from vllm.inputs import tokens_input
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        structured = None if constraint is None else StructuredOutputsParams(**constraint)
        parameters = {**parameters, "output_kind": RequestOutputKind.FINAL_ONLY, "flat_logprobs": True}
        sampling = SamplingParams(structured_outputs=structured, **parameters)
        self.engine.add_request(str(number), tokens_input(ids), sampling)
        if constraint is not None:
            self._constrained[number] = (ids, parameters["logprobs"], None)

    def step(self) -> list[dict[str, Any]]:
        """Advance every request by a token and return the answers of those that have finished."""
        finished = [output for output in self.engine.step() if output.finished]
        answers = [self._finish_draw(int(output.request_id), output) for output in finished]
        return [answer for answer in answers if answer is not None]

    def cancel(self, numbers: list[int]) -> None:
        """Drop requests; those that are unknown or finished are passed over."""
        self.engine.abort_request([str(number) for number in numbers])
        for number in numbers:
            self._constrained.pop(number, None)

    def _finish_draw(self, number: int, output: Any) -> dict[str, Any] | None:
        """Return the answer, or None where a scoring of what was drawn has to come first.

        Under a constraint vLLM's raw log-probs are those of the tokens that it allows. Those of all tokens
        come from a second pass, over what was drawn.
        """
        ids, num_top, answer = self._constrained.pop(number, (None, 0, None))
        if ids is None:
            return describe_output(number, output)
        if answer is None:
            answer = describe_output(number, output)
            if answer["kind"] != "drawn":
                return answer
            parameters = {"temperature": 0.0, "max_tokens": 1, "prompt_logprobs": num_top, "detokenize": False}
            self.add(number, ids + answer["ids"], parameters, None)
            self._constrained[number] = (ids, num_top, answer)
            return None
        scored = describe_logprobs(output.prompt_logprobs, len(answer["ids"]))
        return {**answer, **scored, "allowed_logprobs": answer["logprobs"]}

    def score(self, ids: list[int]) -> list[float]:
        """Return the log-prob of every token of a sequence but the first."""
        self.add(0, ids, {"temperature": 0.0, "max_tokens": 1, "prompt_logprobs": 0, "detokenize": False}, None)
        (output,) = self._finish()
        return list(describe_logprobs(output.prompt_logprobs, len(ids) - 1)["logprobs"])

    def load(self, folder: str) -> None:
        """Take over the weights of a folder, and forget what was computed with others."""
        self.engine.collective_rpc("reload_weights", kwargs={"weights_path": folder})
        if self.is_cpu:
            # An output head that is tied to the embedding keeps the copy that was packed for the CPU's kernels.
            self.engine.collective_rpc(pack_heads_again)
        if not self.engine.reset_prefix_cache():
            raise RuntimeError("the cache of prefixes cannot be emptied")

    def _check_seeds(self) -> bool:
        """Whether a seed decides what a request draws: some builds cannot seed a single request.

        A prompt that is read in pieces has its generator set back after each, and a CPU's cannot be.
        """
        if self.is_cpu and self.engine.vllm_config.scheduler_config.enable_chunked_prefill:
            return False
        drawn = []
        for _ in range(2):
            try:
                self.add(0, [1], {"temperature": 2.0, "max_tokens": 16, "seed": 1, "detokenize": False}, None)
                (output,) = self._finish()
            except Exception:  # noqa: BLE001  # around vLLM's generators: whatever they raise says that they fail
                self.cancel([0])
                return False
            drawn.append(list(output.outputs[0].token_ids))
        return drawn[0] == drawn[1]

    def _finish(self) -> list[Any]:
        finished = []
        while self.is_busy:
            finished += [output for output in self.engine.step() if output.finished]
        return finished


def pack_heads_again(worker: Any) -> None:
    """Pack embeddings and output heads anew from the weights that they now hold."""
    from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod

    for module in worker.get_model().modules():
        method = getattr(module, "quant_method", None)
        if isinstance(method, UnquantizedEmbeddingMethod) and hasattr(module, "cpu_linear"):
            method.process_weights_after_loading(module)


def describe_output(number: int, output: Any) -> dict[str, Any]:
    """Return the answer for a finished request."""
    completion = output.outputs[0]
    if completion.finish_reason not in ("stop", "length"):
        message = f"vLLM ended the request with '{completion.finish_reason}'"
        return {"kind": "refused", "id": number, "error": "", "message": message}
    ids = list(completion.token_ids)
    return {
        "kind": "drawn",
        "id": number,
        "ids": ids,
        "finish_reason": completion.finish_reason,
        "stop": completion.stop_reason,
        **describe_logprobs(completion.logprobs, len(ids)),
    }


def describe_logprobs(logprobs: Any, length: int) -> dict[str, Any]:
    """Return the log-probs of the last `length` positions: the token's own, and those of the most probable.

    At each position vLLM puts the token itself first and then as many as were asked for, most probable first.
    """
    spans = list(zip(logprobs.start_indices, logprobs.end_indices, strict=True))
    spans = spans[max(len(spans) - length, 0) :]
    has_top = any(end - start > 1 for start, end in spans)
    return {
        "logprobs": [logprobs.logprobs[start] for start, _ in spans],
        "top_ids": [logprobs.token_ids[start + 1 : end] for start, end in spans] if has_top else [],
        "top_logprobs": [logprobs.logprobs[start + 1 : end] for start, end in spans] if has_top else [],
    }


class Conversation:
    """The frames to and from the owner, each direction with a thread of its own.

    So the engine never waits for an owner that is busy with what it was given, and no two full pipes can
    wait for each other. An owner that has closed its end is gone: everything ends at once.
    """

    def __init__(self, requests: BinaryIO, answers: BinaryIO) -> None:
        self.inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._outbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._answers = answers
        threading.Thread(target=self._read, args=(requests,), daemon=True).start()
        self._writer = threading.Thread(target=self._write, daemon=True)
        self._writer.start()

    def say(self, **answer: Any) -> None:
        """Queue an answer."""
        self._outbox.put(answer)

    def finish(self) -> None:
        """Wait until everything queued is written."""
        self._outbox.put(None)
        self._writer.join()

    def _read(self, requests: BinaryIO) -> None:
        while (message := read_frame(requests)) is not None:
            self.inbox.put(message)
        _end_without_keeper()

    def _write(self) -> None:
        try:
            while (answer := self._outbox.get()) is not None:
                self._answers.write(pack_frame(answer))
                self._answers.flush()
        except OSError:
            _end_without_keeper()


def _end_without_keeper() -> None:
    """End this process and its group, unless the keeper, who also removes the scratch folder, does it first."""
    time.sleep(2 * _WATCH_SECONDS)
    os.killpg(0, signal.SIGKILL)


def serve(host: EngineHost, conversation: Conversation) -> NoReturn:
    """Answer requests for as long as this process lives."""
    last_sign = time.monotonic()
    while True:
        while not (host.is_busy and conversation.inbox.empty()):
            handle(host, conversation, conversation.inbox.get())
        for answer in host.step():
            conversation.say(**answer)
        if time.monotonic() - last_sign >= HEARTBEAT_SECONDS:
            last_sign = time.monotonic()
            conversation.say(kind="alive")


def handle(host: EngineHost, conversation: Conversation, message: dict[str, Any]) -> None:
    """Do what one request asks for; what vLLM refuses of a draw is that draw's answer."""
    kind, number = message["kind"], message.get("id")
    if kind == "draw":
        try:
            host.add(message["id"], message["ids"], message["parameters"], message["constraint"])
        except Exception as error:  # noqa: BLE001  # around vLLM's validation, which raises classes of many kinds
            conversation.say(
                kind="refused", id=number, error=type(error).__name__, message=str(error)[:MESSAGE_CHARACTERS]
            )
    elif kind == "cancel":
        host.cancel(message["ids"])
    elif kind == "score":
        conversation.say(kind="scored", id=number, logprobs=host.score(message["ids"]))
    elif kind == "load":
        started = time.monotonic()
        host.load(message["folder"])
        conversation.say(kind="loaded", id=number, seconds=time.monotonic() - started)
    else:
        raise ValueError(f"unknown request '{kind}'")


def run_engine() -> int:
    """Take the pipes away from descriptors 0 and 1, then serve; return an exit status."""
    conversation = Conversation(os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb"))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    conversation.say(kind="hello", engine=os.getpid())
    stage = "start"
    try:
        message = conversation.inbox.get()
        host = EngineHost(message)
        conversation.say(kind="ready", id=message["id"], **host.about)
        stage = "serve"
        serve(host, conversation)
    except Exception as error:  # noqa: BLE001  # around vLLM: its failures are told to the owner, then this ends
        traceback.print_exc()
        conversation.say(
            kind="failed", stage=stage, error=type(error).__name__, message=str(error)[:MESSAGE_CHARACTERS]
        )
        return 1
    finally:
        conversation.finish()
        sys.stderr.flush()


def main() -> None:
    """Split into keeper and engine."""
    # The folder of this script holds a module named vllm, which is not the one that is meant.
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [path for path in sys.path if os.path.abspath(path or os.getcwd()) != here]
    watched = {signal.SIGCHLD, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    engine = os.fork()
    with contextlib.suppress(OSError):  # both sides do it: whichever comes first
        os.setpgid(engine, engine)
    if engine:
        os._exit(keep_watch(engine, int(sys.argv[1]), sys.argv[2]))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, watched)
    os._exit(run_engine())  # no atexit work: the keeper ends whatever vLLM started


if __name__ == "__main__":
    main()
