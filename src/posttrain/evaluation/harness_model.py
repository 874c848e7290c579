"""A policy as lm-evaluation-harness sees a model: this project's log-probs and sampler, the harness's tokens.

Texts become tokens as in the harness's own back-end for transformers (HFLM), so that both give the same numbers: the
tokenizer adds what it always adds, unless the text begins with the BOS token's text; a context's trailing spaces
belong to the continuation; what is too long loses its left end; a document is cut into windows that predict each token
once. Log-probs come from `weighing.Weigher`, whose passes hold rows of like length under a budget of tokens.

Only this file's classes derive from the harness's, and it is imported once a task of the harness is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from posttrain.core.errors import DataError
from posttrain.core.records import TokenizedProblem
from posttrain.core.sampling import Sampler, SamplingSettings
from posttrain.core.seeds import derive_seed
from posttrain.evaluation.weighing import Weigher

DEFAULT_CONTEXT = 2048
"""The context that the harness takes where neither model nor tokenizer names one."""
DEFAULT_NEW_TOKENS = 256
_UNSET_LENGTH = 10**20
"""Above this a tokenizer's model_max_length stands for none."""
_CAPS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_DRAWING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
_WITHOUT_EFFECT = {"do_sample": None, "use_cache": None, "num_beams": 1, "num_return_sequences": 1}
"""Keys of transformers' generate that change nothing here: any value, or only the one named."""


@dataclass(frozen=True, slots=True)
class HarnessPolicy:
    """A policy with what the harness asks of it. Made by the measurer, read here.

    Args:
        weigher: Its log-probs, which must name the most probable token at each position.
        tokenizer: Its transformers tokenizer.
        open_sampler: What draws from it, opened when something is to be drawn.
        stop_ids: What ends a completion.
    """

    weigher: Weigher
    tokenizer: Any
    open_sampler: Callable[[], Sampler]
    stop_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Drawn:
    """One text that was drawn for a request: before its stop string, without special tokens.

    `num_tokens` and `nats` are of all drawn tokens, `is_stopped` says whether it ended by itself.
    """

    text: str
    num_tokens: int
    nats: float | None
    is_stopped: bool


class HarnessModel(TemplateLM):
    """Answers the harness's requests with one policy.

    Args:
        policy: The policy.
        seed_parts: What draws start from, beside a request's own name.
    """

    def __init__(self, policy: HarnessPolicy, seed_parts: Sequence[Any] = ()) -> None:
        super().__init__()
        self.policy = policy
        self.tokenizer = policy.tokenizer
        self.seed_parts = tuple(seed_parts)
        own = getattr(self.tokenizer, "model_max_length", None)
        known = int(own) if own is not None and own < _UNSET_LENGTH else DEFAULT_CONTEXT
        self.max_length = policy.weigher.context_tokens or known

    @property
    def eot_token_id(self) -> int:
        """The tokenizer's end of sequence."""
        found: int = self.tokenizer.eos_token_id
        return found

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text that has nothing before it: BOS, or EOS.

        Raises:
            DataError: The tokenizer has neither.
        """
        for found in (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id):
            if found is not None:
                return int(found)
        raise DataError(
            "the tokenizer has neither a BOS nor an EOS token",
            expected="a token that the first one of a text can follow",
            cure="name one in the model's tokenizer_config.json",
            place="tokenizer",
        )

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Return a text's ids with what the tokenizer adds, or without where it begins with the prefix's own text."""
        if add_special_tokens is None:
            add_special_tokens = not string.startswith(self.tokenizer.decode(self.prefix_token_id))
        ids: list[int] = self.tokenizer.encode(string, add_special_tokens=add_special_tokens, verbose=False)
        return ids

    def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Return the log-likelihood of each (context, continuation), and whether it is what greedy drawing would give.

        Raises:
            DataError: A continuation has no token of its own, or fills more than the model's context.
        """
        rows = []
        for request in requests:
            context, continuation = request.args
            if context:
                before, after = self._encode_pair(context, continuation)
            else:
                before, after = [self.prefix_token_id], self.tok_encode(continuation, add_special_tokens=False)
                if after[:1] == before:
                    before, after = after[:1], after[1:]
            rows.append(((context, continuation), before, after))
            self._check_pair(request, before, after)
        return self._loglikelihood_tokens(rows)

    def _check_pair(self, request: Any, before: Sequence[int], after: Sequence[int]) -> None:
        if before and 0 < len(after) <= self.max_length:
            return
        raise DataError(
            f"the continuation {request.args[1][:60]!r} has {len(after)} tokens after {len(before)} of its context",
            expected=f"1 to {self.max_length} tokens, the model's context, after at least one",
            cure="leave the task out for this model, or mend its documents",
            place=f"{request.task_name}: document {request.doc_id}",
        )

    def _loglikelihood_tokens(self, requests: Any, **kwargs: Any) -> list[tuple[float, bool]]:
        """Return what `loglikelihood` does, of (anything, context ids, continuation ids)."""
        prompts, completions = [], []
        for _, before, after in requests:
            # The last token is predicted and not read, so that one more than the context fits.
            kept = [*before, *after][-(self.max_length + 1) :]
            prompts.append(np.array(kept[: len(kept) - len(after)], np.int32))
            completions.append(np.array(after, np.int32))
        found = []
        for ids, weighed in zip(completions, self.policy.weigher.compute_logprobs(prompts, completions), strict=True):
            if not np.isfinite(weighed.total) or weighed.top is None:
                raise DataError(
                    f"a continuation has the log-likelihood {weighed.total}",
                    expected="a finite number",
                    cure="check the policy's weights",
                    place="log-likelihood",
                )
            found.append((weighed.total, bool((weighed.top.ids_TK[:, 0] == ids).all())))
        return found

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = True) -> list[float]:
        """Return the log-likelihood of each whole text, a long one in windows that predict each token once."""
        windows: list[tuple[Any, list[int], list[int]]] = []
        owners: list[int] = []
        for index, request in enumerate(requests):
            (text,) = request.args
            for pair in get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            ):
                windows.append((None, *make_disjoint_window(pair)))
                owners.append(index)
        totals = [0.0] * len(requests)
        for owner, (total, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            totals[owner] += total
        return totals

    def generate_until(self, requests: Any, disable_tqdm: bool = True) -> list[str]:
        """Return one text for each (context, keyword arguments of generation)."""
        texts = [""] * len(requests)
        for index, drawn in self.draw(requests):
            texts[index] = drawn.text
        return texts

    def draw(self, requests: Sequence[Any], repeats: Sequence[int] = ()) -> Iterator[tuple[int, Drawn]]:
        """Yield (index of the request, what was drawn) as they finish, requests of like settings together.

        Args:
            requests: The harness's requests; the same one may come several times.
            repeats: Which repetition of its request each is; none: the first.

        Raises:
            DataError: A task asks for what the sampler cannot do, or leaves no room for an answer.
        """
        groups: dict[SamplingSettings, list[int]] = {}
        stops: dict[SamplingSettings, list[str]] = {}
        for index, request in enumerate(requests):
            place = f"{request.task_name}: generation_kwargs"
            settings, until = self._read_settings(request.args[1], place)
            groups.setdefault(settings, []).append(index)
            stops[settings] = until
        for settings, indices in groups.items():
            problems, seeds = [], []
            for index in indices:
                request, repeat = requests[index], repeats[index] if repeats else 0
                seeds.append(derive_seed(*self.seed_parts, str(request.doc_id), request.idx, repeat))
                ids = tuple(self._encode_prompt(request, settings.max_new_tokens))
                problems.append(TokenizedProblem(f"{request.doc_id}:{request.idx}:{repeat}", [], prompt_ids=ids))
            for place_in_group, completion in self.policy.open_sampler().sample(problems, settings, seeds):
                yield indices[place_in_group], self._read_completion(completion, stops[settings])

    def _encode_prompt(self, request: Any, max_new_tokens: int) -> list[int]:
        text, room = request.args[0], self.max_length - max_new_tokens
        if room < 1:
            raise DataError(
                f"answers of up to {max_new_tokens} tokens in a context of {self.max_length}",
                expected="room for at least one token of the prompt",
                cure="measure a model with a longer context, or a copy of the task (`include`) with a smaller "
                "max_gen_toks",
                place=f"{request.task_name}: generation_kwargs",
            )
        is_begun = bool(self.tokenizer.bos_token) and text.startswith(self.tokenizer.bos_token)
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=not is_begun, verbose=False)
        return ids[-room:]

    def _read_completion(self, completion: Any, until: Sequence[str]) -> Drawn:
        text = self.tokenizer.decode(completion.ids.tolist(), skip_special_tokens=True)
        for stop in until:
            text = text.split(stop)[0]
        logprobs = completion.sampler_logprobs
        nats = None if logprobs is None or not len(completion.ids) else -float(logprobs.sum(dtype=np.float64))
        return Drawn(text, len(completion.ids), nats, completion.finish_reason == "stop")

    def _read_settings(self, given: Mapping[str, Any], place: str) -> tuple[SamplingSettings, list[str]]:
        """Return how a request is drawn, and the texts that its answer ends before."""
        arguments = dict(given)
        until = arguments.pop("until", None) or []
        until = [until] if isinstance(until, str) else list(until)
        caps = [arguments.pop(name, None) for name in _CAPS]
        cap = int(next((value for value in caps if value is not None), DEFAULT_NEW_TOKENS))
        is_drawn = arguments.get("do_sample")
        drawing = {name: arguments.pop(name, None) for name in _DRAWING}
        for name, only in _WITHOUT_EFFECT.items():
            found = arguments.pop(name, only)
            if only is not None and found != only:
                arguments[name] = found
        if arguments:
            raise _refuse(f"{', '.join(sorted(arguments))} in the settings of generation", place)
        temperature = float(drawing.pop("temperature") or 0.0)
        if is_drawn and temperature == 0:
            raise _refuse("do_sample without a temperature above 0", place)
        if is_drawn is False or temperature == 0:
            temperature, penalty = 0.0, drawing["repetition_penalty"]
            drawing = dict.fromkeys(drawing, None) | {"repetition_penalty": penalty}
        settings = SamplingSettings(
            max_new_tokens=cap,
            temperature=temperature,
            top_p=None if drawing["top_p"] in (None, 1, 1.0) else float(drawing["top_p"]),
            top_k=int(drawing["top_k"]) or None if drawing["top_k"] is not None else None,
            min_p=float(drawing["min_p"]) or None if drawing["min_p"] is not None else None,
            repetition_penalty=None if drawing["repetition_penalty"] is None else float(drawing["repetition_penalty"]),
            stop_ids=self.policy.stop_ids,
            stop_strings=tuple(text for text in until if text),
            ignore_eos=True,
        )
        eos = self.tokenizer.eos_token
        return settings, [text for text in [*until, eos] if text]


def _refuse(found: str, place: str) -> DataError:
    return DataError(
        found,
        expected=f"until, {_CAPS[0]}, do_sample, {', '.join(_DRAWING)}: what the sampler can do",
        cure="measure a copy of the task (`include`) without it",
        place=place,
    )
