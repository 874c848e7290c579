"""Export: one plain Hugging Face folder, adapters merged, proven to behave as the artifact does.

The proof uses transformers alone on the side of the export: its tokenizer and template must give the ids
that this project's renderer gives, its weights the first greedy tokens, its configuration the stop
tokens. A folder that fails is not left behind.

Two roundings are kept apart. Merging is compared before and after in float32. Storing rounds to the
export's dtype, so the tokens are compared with the merged weights after the same rounding: what is
proven is that the files hold what was meant, exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import torch

from posttrain.chat.rendering import ChatFormat, Renderer
from posttrain.chat.templates import DEFAULT_DATE, build_template_renderer
from posttrain.core.durable import write_folder
from posttrain.core.errors import ModelError, StorageError, TemplateError
from posttrain.core.records import Message
from posttrain.models.adapters import merge_adapters
from posttrain.models.artifacts import save_generation_config, save_tokenizer, save_weights
from posttrain.models.loaded_policy import LoadedPolicy
from posttrain.models.loading import DTYPES, GENERATION_FILE, load_policy
from posttrain.models.text_tokenizer import HuggingFaceTextTokenizer
from posttrain.models.validation import check_model_folder, quiet_transformers
from posttrain.models.weights import find_stored_dtype, read_json_object

NUM_GREEDY_TOKENS = 32
_MIN_CONVERSATIONS = 5
_MERGE_TOLERANCE = 1e-5
_FILE_TOLERANCE = 1e-5

_SYSTEM = "Answer briefly."
_QUESTIONS = (
    "Hello!",
    "What is the capital of France?",
    "Add 17 and 25.",
    "Write one line about the sea.\nThen another.",
    "  leading and trailing blanks  ",
    "na\u00efve caf\u00e9, \u65e5\u672c\u8a9e, \u0645\u0631\u062d\u0628\u0627, \U0001f600",
    "def f(x):\n\treturn x ** 2",
    "1,000,000.50 is how many euros?",
    '{"key": [1, 2, {"deep": null}]}',
    "Repeat: a a a a a a a a",
)


def list_conversations() -> list[list[Message]]:
    """Return the 20 conversations of the parity check: ten questions, each alone and inside a dialogue."""
    alone = [[{"role": "user", "content": question}] for question in _QUESTIONS]
    inside = [
        [
            *([{"role": "system", "content": _SYSTEM}] if index % 2 else []),
            {"role": "user", "content": _QUESTIONS[index - 1]},
            {"role": "assistant", "content": "Yes." if index % 3 else "No, not at all."},
            {"role": "user", "content": question},
        ]
        for index, question in enumerate(_QUESTIONS)
    ]
    return [*alone, *inside]


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What the proof of an export covered.

    Args:
        num_conversations: Conversations whose ids were compared (a template may refuse some).
        num_tokens: Greedy tokens that were compared.
        merge_difference: Largest difference of logits by merging, in float32, relative to the largest logit.
        dtype: Of the exported weights.
    """

    num_conversations: int
    num_tokens: int
    merge_difference: float
    dtype: str


@dataclass(frozen=True, slots=True)
class ParityReference:
    """What an export has to reproduce: prompts, first greedy tokens, the logits before them, stop ids.

    `prompts` are those of the pinned date; `prompts_today` those of the day of the check, which is the date
    that transformers gives a template that asks for one (elsewhere the two are the same).
    """

    conversations: list[list[Message]]
    prompts: list[list[int]]
    prompts_today: list[list[int]]
    greedy: list[list[int]]
    logits_PV: torch.Tensor
    stop_ids: tuple[int, ...]
    template_arguments: dict[str, Any]


def export_policy(artifact: Path, out: Path, *, weights_dtype: str | None = None, device: str = "cpu") -> ExportReport:
    """Write an artifact as one plain model folder, adapters merged, and prove that it behaves the same.

    Args:
        artifact: A policy's artifact; every file is hashed first.
        out: The folder to make; it must not exist.
        weights_dtype: "float32" or "bfloat16"; None keeps what the base is stored in.
        device: Where to run the proof.

    Raises:
        ModelError: The artifact is damaged, or the export fails its proof; nothing is left at `out`.
        StorageError: `out` exists or cannot be written.
    """
    if out.exists():
        raise StorageError(
            "the folder exists already",
            expected="a free place for the export",
            cure="choose another folder or remove this one",
            place=str(out),
        )
    policy = load_policy(artifact, dtype="float32", device=device)
    if policy.manifest is None:
        raise ModelError(
            "no manifest",
            expected="an artifact of this project",
            cure="a plain model folder needs no export",
            place=str(artifact),
        )
    dtype = weights_dtype or find_stored_dtype(policy.base_folder or policy.folder)
    conversations, prompts = _render_prompts(policy, _chat_format(policy))
    model, merge_difference = _merge(policy, prompts)
    _round_weights(model, DTYPES[dtype])
    reference = _build_reference(policy, model, conversations, prompts)

    def fill(target: Path) -> None:
        save_weights(model, target, DTYPES[dtype], None)
        save_generation_config(model, target, reference.stop_ids)
        save_tokenizer(policy.tokenizer, target, policy.chat_template)
        check_export(reference, target, device=device)

    write_folder(out, fill)
    num_tokens = sum(map(len, reference.greedy))
    return ExportReport(len(prompts), num_tokens, merge_difference, dtype)


def check_export(reference: ParityReference, folder: Path, *, device: str = "cpu") -> None:
    """Compare an exported folder, loaded by transformers alone, with what it has to reproduce.

    Raises:
        ModelError: Names what differs: ids of a prompt, greedy tokens, logits, stop tokens, or values that
            are not finite.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    check_model_folder(folder)
    stop_ids = read_json_object(folder / GENERATION_FILE).get("eos_token_id")
    if stop_ids != list(reference.stop_ids):
        raise _differs(folder / GENERATION_FILE, f"stop tokens {stop_ids}", f"{list(reference.stop_ids)}")
    with quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=torch.float32
        )
    for number, messages in enumerate(reference.conversations):
        ids = _encode_plainly(tokenizer, messages, reference.template_arguments)
        wanted = reference.prompts_today[number]
        if ids != wanted:
            position = next((i for i, pair in enumerate(zip(ids, wanted, strict=False)) if pair[0] != pair[1]), -1)
            raise _differs(
                folder, f"conversation {number} becomes other token ids, first at position {position}", "the same ids"
            )
    model = model.to(device).eval()
    logits_PV = compute_last_logits(model, reference.prompts)
    scale = max(1.0, float(reference.logits_PV.abs().max()))
    difference = float((logits_PV - reference.logits_PV).abs().max()) / scale
    if not difference <= _FILE_TOLERANCE:
        raise _differs(folder, f"logits that differ by {difference:.2g} of the largest", f"at most {_FILE_TOLERANCE:g}")
    for number, prompt in enumerate(reference.prompts):
        if draw_greedily(model, prompt, reference.stop_ids) != reference.greedy[number]:
            raise _differs(folder, f"conversation {number} is answered with other greedy tokens", "the same tokens")


@torch.inference_mode()
def compute_last_logits(model: Any, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
    """Return the logits [P, V] after the last token of each prompt, in float32 on the CPU."""
    rows = []
    for prompt in prompts:
        ids = torch.tensor([list(prompt)], device=model.device)
        rows.append(model(input_ids=ids, use_cache=False).logits[0, -1].float().cpu())
    return torch.stack(rows)


@torch.inference_mode()
def draw_greedily(model: Any, prompt: Sequence[int], stop_ids: Sequence[int]) -> list[int]:
    """Return the first greedy tokens after a prompt, up to and with a stop token; no sampling setting acts."""
    ids = torch.tensor([list(prompt)], device=model.device)
    cache: Any = None
    drawn: list[int] = []
    while len(drawn) < NUM_GREEDY_TOKENS:
        output = model(input_ids=ids, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        ids = output.logits[:, -1:].argmax(-1)
        drawn.append(int(ids))
        if drawn[-1] in stop_ids:
            break
    return drawn


def _render_prompts(
    policy: LoadedPolicy, chat_format: ChatFormat | None
) -> tuple[list[list[Message]], list[list[int]]]:
    """Return the conversations that the template takes, and their prompt ids by this project's renderer."""
    if chat_format is None:
        # Without a template the export can only be asked for the ids of plain texts.
        conversations = [conversation for conversation in list_conversations() if len(conversation) == 1]
        return conversations, [policy.tokenizer.encode(conversation[0]["content"]) for conversation in conversations]
    text_tokenizer = HuggingFaceTextTokenizer(policy.tokenizer)
    template_renderer = build_template_renderer(chat_format.program)
    conversations, prompts, refusals = [], [], []
    try:
        renderer = Renderer(text_tokenizer, chat_format, template_renderer)
        for conversation in list_conversations():
            try:
                [ids] = renderer.render_prompts([(conversation, None)])
            except TemplateError as error:
                # A template may have no system role, say; the export is asked for the others.
                refusals.append(error)
                continue
            conversations.append(conversation)
            prompts.append([int(index) for index in ids])
    finally:
        template_renderer.close()
    if len(prompts) < _MIN_CONVERSATIONS:
        raise ModelError(
            f"the chat template refuses {len(refusals)} of 20 conversations: {refusals[0].found}",
            expected="a template that renders ordinary conversations",
            cure="correct the template that the artifact was trained with",
            place=str(policy.folder),
        )
    return conversations, prompts


def _chat_format(policy: LoadedPolicy) -> ChatFormat | None:
    """Return the format that the artifact was trained with, or None for a model without a template."""
    if policy.chat_template is None or policy.manifest is None:
        return None
    chat = policy.manifest.chat
    return ChatFormat(
        policy.chat_template,
        dict(HuggingFaceTextTokenizer(policy.tokenizer).template_tokens),
        _stop_ids(policy),
        chat.get("date", DEFAULT_DATE),
        dict(chat.get("template_arguments", {})),
    )


def _stop_ids(policy: LoadedPolicy) -> tuple[int, ...]:
    pinned = tuple(policy.manifest.stop_ids) if policy.manifest is not None else ()
    return pinned or policy.generation_eos_ids or policy.tokenizer_eos_ids


def _encode_plainly(tokenizer: Any, messages: list[Message], arguments: dict[str, Any]) -> list[int]:
    """Return a prompt's ids as somebody gets them who has the folder and transformers, and nothing else."""
    if tokenizer.chat_template is None:
        return list(tokenizer.encode(messages[0]["content"]))
    return list(
        tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=False, **arguments
        )
    )


def _merge(policy: LoadedPolicy, prompts: Sequence[Sequence[int]]) -> tuple[Any, float]:
    """Return the plain model and by how much merging moved its logits."""
    if not policy.adapters:
        return policy.model, 0.0
    before_PV = compute_last_logits(policy.model, prompts)
    model = merge_adapters(policy.model).eval()
    difference = float((compute_last_logits(model, prompts) - before_PV).abs().max())
    difference /= max(1.0, float(before_PV.abs().max()))
    if not difference <= _MERGE_TOLERANCE:
        raise ModelError(
            f"merging moves the logits by {difference:.2g} of the largest",
            expected=f"at most {_MERGE_TOLERANCE:g} in float32",
            cure="train a smaller adapter scale (alpha / rank), or ship the artifact with its adapters",
            place=str(policy.folder),
        )
    return model, difference


@torch.no_grad()
def _round_weights(model: Any, dtype: torch.dtype) -> None:
    """Give every weight the value that it will have after being stored."""
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(tensor.to(dtype))


def _build_reference(
    policy: LoadedPolicy, model: Any, conversations: list[list[Message]], prompts: list[list[int]]
) -> ParityReference:
    stop_ids = _stop_ids(policy)
    chat_format, prompts_today = _chat_format(policy), prompts
    if chat_format is not None and "strftime_now" in chat_format.template:
        _, prompts_today = _render_prompts(policy, replace(chat_format, date=date.today().isoformat()))
    return ParityReference(
        conversations,
        prompts,
        prompts_today,
        [draw_greedily(model, prompt, stop_ids) for prompt in prompts],
        compute_last_logits(model, prompts),
        stop_ids,
        dict(chat_format.template_arguments) if chat_format is not None else {},
    )


def _differs(place: Path, found: str, expected: str) -> ModelError:
    return ModelError(
        found,
        expected=f"{expected} as in the artifact",
        cure="the export was written wrongly or changed: export again, and report it if it happens twice",
        place=str(place),
    )
