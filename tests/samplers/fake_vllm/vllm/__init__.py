"""A stand-in for vLLM with as much of its interface as the worker uses, and faults on request.

The policy is one number, `shift` in config.json: after token a comes (a + shift) % vocabulary, and token b
after token a has log-prob -((b - a - shift) % vocabulary) / 10. Above temperature 0 a residue of 0 to 3 is
drawn. Text is one letter a token. `FAKE_VLLM` holds faults as JSON: see `FAULTS`.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import types
from enum import Enum
from pathlib import Path

FAULTS = json.loads(os.environ.get("FAKE_VLLM", "{}"))
__version__ = FAULTS.get("version", "0.32.0")
VOCABULARY = 64
START_ERRORS = {
    "memory": MemoryError("no memory is left"),
    "cache": ValueError("1.0 GiB KV cache is needed, which is larger than what there is"),
    "model": ValueError("Model architectures ['OddForCausalLM'] are not supported for now"),
}


class EngineArgs:
    def __init__(self, **arguments):
        self.__dict__.update(arguments)
        print("arguments:", json.dumps(arguments), file=sys.stderr)


class SamplingParams:
    def __init__(self, **parameters):
        self.__dict__.update({"logprobs": None, "prompt_logprobs": None, "seed": None, "stop": [], **parameters})
        self.stop_token_ids = parameters.get("stop_token_ids", [])
        if parameters.get("structured_outputs") is not None and "(" in parameters["structured_outputs"].text:
            raise ValueError("Grammar error: unclosed group")


class StructuredOutputsParams:
    def __init__(self, **constraint):
        ((self.kind, self.text),) = constraint.items()


class RequestOutputKind(Enum):
    FINAL_ONLY = 2


def tokens_input(ids):
    return {"type": "token", "prompt_token_ids": ids}


def read_text(ids):
    return "".join(chr(97 + token % 26) for token in ids)


class FlatLogprobs:
    def __init__(self):
        self.start_indices, self.end_indices, self.token_ids, self.logprobs = [], [], [], []

    def append(self, pairs):
        self.start_indices.append(len(self.token_ids))
        for token, logprob in pairs:
            self.token_ids.append(token)
            self.logprobs.append(logprob)
        self.end_indices.append(len(self.token_ids))


class Request:
    def __init__(self, name, ids, params):
        self.name, self.prompt, self.params, self.ids = name, ids, params, []
        self.logprobs = FlatLogprobs()
        self.random = random.Random(params.seed)


class LLMEngine:
    @classmethod
    def from_engine_args(cls, arguments, usage_context):
        if "start_error" in FAULTS:
            raise START_ERRORS[FAULTS["start_error"]]
        if "start_seconds" in FAULTS:
            time.sleep(FAULTS["start_seconds"])
        if "spawn" in FAULTS:  # a process that leaves the group, as an engine's own workers may
            child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
            Path(FAULTS["spawn"]).write_text(str(child.pid))
        return cls(arguments)

    def __init__(self, arguments):
        self.requests, self.num_steps, self.arguments = {}, 0, arguments
        self.load(arguments.model)
        config = types.SimpleNamespace(max_model_len=arguments.max_model_len or 128, get_vocab_size=lambda: VOCABULARY)
        self.vllm_config = types.SimpleNamespace(model_config=config)

    def load(self, folder):
        self.shift = json.loads((Path(folder) / "config.json").read_text())["shift"]

    def has_unfinished_requests(self):
        return bool(self.requests)

    def add_request(self, name, prompt, params):
        ids = prompt["prompt_token_ids"]
        if any(token >= VOCABULARY for token in ids):
            raise ValueError(f"Token id {max(ids)} is out of vocabulary")
        self.requests[name] = Request(name, ids, params)

    def abort_request(self, names):
        for name in names:
            if self.requests.pop(name, None) is not None:
                print("aborted", name, file=sys.stderr)

    def logprob(self, before, token):
        return -((token - before - self.shift) % VOCABULARY) / 10 - FAULTS.get("off", 0.0)

    def list_pairs(self, before, token, num_top):
        best = [(before + self.shift + residue) % VOCABULARY for residue in range(num_top)]
        return [(other, self.logprob(before, other)) for other in (token, *best)]

    def step(self):
        self.num_steps += 1
        time.sleep(FAULTS.get("step_seconds", 0.0))
        drawing = [request for request in self.requests.values() if request.params.max_tokens > 16]
        if drawing and len(drawing[0].ids) >= FAULTS.get("die_after", 1 << 30):
            print("about to die", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        if drawing and len(drawing[0].ids) >= FAULTS.get("raise_after", 1 << 30):
            raise RuntimeError("the kernel has failed")
        outputs = [self.advance(request) for request in list(self.requests.values())]
        for output in outputs:
            if output.finished:
                del self.requests[output.request_id]
        return outputs

    def advance(self, request):
        params, before = request.params, [*request.prompt, *request.ids][-1]
        source = random if FAULTS.get("unseeded") and params.temperature else request.random
        residue = source.randrange(4) if params.temperature else 0
        token = (before + self.shift + residue) % VOCABULARY
        request.ids.append(token)
        if params.logprobs is not None:
            pairs = self.list_pairs(before, token, params.logprobs)
            # Under a constraint vLLM's log-probs are those of the allowed tokens: here the one that is drawn.
            request.logprobs.append(pairs if params.structured_outputs is None else [(token, 0.0)])
        stop = self.find_stop(request, token)
        reason = "stop" if stop is not None else "length" if len(request.ids) >= params.max_tokens else None
        completion = types.SimpleNamespace(
            token_ids=request.ids, finish_reason=reason, stop_reason=stop, logprobs=request.logprobs
        )
        prompt = FlatLogprobs()
        if params.prompt_logprobs is not None:
            prompt.append([])
            for first, second in zip(request.prompt, request.prompt[1:], strict=False):
                prompt.append(self.list_pairs(first, second, params.prompt_logprobs))
        return types.SimpleNamespace(
            request_id=request.name, finished=reason is not None, outputs=[completion], prompt_logprobs=prompt
        )

    def find_stop(self, request, token):
        if token in request.params.stop_token_ids:
            return token
        if FAULTS.get("deaf"):
            return None
        return next((string for string in request.params.stop if string in read_text(request.ids)), None)

    def collective_rpc(self, method, kwargs):
        assert method == "reload_weights"
        if not (Path(kwargs["weights_path"]) / "model.safetensors").is_file():
            raise RuntimeError("no weights")
        if not FAULTS.get("stale"):
            self.load(kwargs["weights_path"])

    def reset_prefix_cache(self):
        return True


def _register(name, **members):
    sys.modules[f"vllm.{name}"] = module = types.ModuleType(f"vllm.{name}")
    module.__dict__.update(members)


_register("platforms", current_platform=types.SimpleNamespace(is_cpu=lambda: False))
_register("v1")
_register("v1.engine")
_register("v1.engine.llm_engine", LLMEngine=LLMEngine)
_register("usage")
_register("usage.usage_lib", UsageContext=types.SimpleNamespace(LLM_CLASS="LLM_CLASS"))
_register("inputs", tokens_input=tokens_input)
_register("sampling_params", RequestOutputKind=RequestOutputKind, StructuredOutputsParams=StructuredOutputsParams)
