"""A tokenizer's files as untrusted input: checked as JSON, then tried out in a process that may die.

`tokenizer.json` holds regular expressions and replacement rules that run inside a native library: they
can panic, take exponential time or exponential memory. So it is first loaded and made to encode in a
sandboxed process with limits; only a file that came through that is loaded here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from posttrain.chat.templates import TemplateProgram, compile_template
from posttrain.core.errors import ModelError, SandboxError
from posttrain.core.hashing import hash_text, sha256_file
from posttrain.models.weights import read_json_object
from posttrain.sandbox.limits import Limits
from posttrain.sandbox.pool import Pool

TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
TEMPLATE_FILE = "chat_template.jinja"
_TEMPLATE_FOLDER = "additional_chat_templates"
_MAX_TEMPLATE_BYTES = 1 << 20
_MAX_TOKENIZER_BYTES = 256 << 20
_RESTORE = "restore the file from where the model came from"

_TRIAL_LIMITS = Limits(cpu_seconds=10.0, wall_seconds=40.0, memory_bytes=2 << 30, output_bytes=1 << 20)
_TRIAL_RUN = 160
# Runs of each kind of character, each ended by one of another kind: what makes a regex backtrack.
_TRIAL_TEXTS = (
    "The quick brown fox, 12 345 times:\n\n\tno\u00e9l \u65e5\u672c\u8a9e \U0001f600 x!",
    "a" * _TRIAL_RUN + "!" + "1" * _TRIAL_RUN + "a" + " " * _TRIAL_RUN + "1" + "\n" * _TRIAL_RUN + " ",
    "aA1 _-" * _TRIAL_RUN,
    "\u00e9" * _TRIAL_RUN + "\u65e5" * _TRIAL_RUN + "#",
)

# Digests of tokenizer files and templates that passed their trial in this process.
_PASSED: set[str] = set()


def check_tokenizer_files(folder: Path, *, num_embeddings: int | None = None) -> None:
    """Check a folder's tokenizer and chat template.

    Args:
        folder: Holds tokenizer.json and what belongs to it.
        num_embeddings: Rows of the model's embedding; every token id must lie below.

    Raises:
        ModelError: A file is missing, unreadable, names code or other files, does not come through a
            trial in a sandboxed process, or has ids that the embedding lacks.
    """
    path = folder / TOKENIZER_FILE
    if not path.exists():
        raise ModelError(
            f"no {TOKENIZER_FILE}",
            expected="a fast tokenizer",
            cure="convert the tokenizer once: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)",
            place=str(folder),
        )
    values = read_json_object(path, max_bytes=_MAX_TOKENIZER_BYTES)
    for name in (TOKENIZER_CONFIG_FILE, "special_tokens_map.json", "added_tokens.json", "generation_config.json"):
        if (folder / name).exists():
            _check_settings(folder / name)
    _check_ids(values, path, num_embeddings)
    _try_out(path, _read_templates(folder))


def _check_settings(path: Path) -> None:
    for key, value in read_json_object(path).items():
        is_code = key in ("auto_map", "custom_generate", "trust_remote_code") and value
        # `special_tokens_map_file` is a trace of where a tokenizer was once saved; nothing reads it.
        is_file = key.endswith(("_file", "_files")) and key != "special_tokens_map_file" and value
        if is_code or is_file:
            raise ModelError(
                f"'{key}' names {'code' if is_code else 'files'} to load",
                expected=f"a tokenizer that is whole in {TOKENIZER_FILE}",
                cure=f"remove '{key}' if {TOKENIZER_FILE} is whole; else take another model",
                place=str(path),
            )


def _check_ids(values: dict[str, Any], path: Path, num_embeddings: int | None) -> None:
    model, added = values.get("model"), values.get("added_tokens", [])
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, dict):
        ids = list(vocabulary.values())
    elif isinstance(vocabulary, list):
        ids = list(range(len(vocabulary)))
    else:
        raise ModelError("no vocabulary", expected="a tokenizers file", cure=_RESTORE, place=str(path))
    ids += (
        [token.get("id") if isinstance(token, dict) else None for token in added] if isinstance(added, list) else [None]
    )
    if not ids or not all(type(index) is int and index >= 0 for index in ids):
        raise ModelError(
            "token ids that are no whole numbers", expected="a tokenizers file", cure=_RESTORE, place=str(path)
        )
    if num_embeddings is not None and max(ids) >= num_embeddings:
        raise ModelError(
            f"token id {max(ids):,} with an embedding of {num_embeddings:,} rows",
            expected="a row of the embedding for every token",
            cure="use the tokenizer that belongs to this model, or resize the embedding and train it",
            place=str(path),
        )


def _read_templates(folder: Path) -> list[tuple[Path, str]]:
    """Return every chat template of a folder with the file it is in."""
    found = []
    for path in [folder / TEMPLATE_FILE, *sorted((folder / _TEMPLATE_FOLDER).glob("*.jinja"))]:
        if not path.exists():
            continue
        if not path.is_file() or path.stat().st_size > _MAX_TEMPLATE_BYTES:
            raise _bad_template(path, f"no plain file, or one of {path.stat().st_size:,} bytes")
        try:
            found.append((path, path.read_bytes().decode("utf-8")))
        except UnicodeDecodeError:
            raise _bad_template(path, "text that is not UTF-8") from None
    config = folder / TOKENIZER_CONFIG_FILE
    stored = read_json_object(config).get("chat_template") if config.exists() else None
    entries = stored if isinstance(stored, list) else [{"template": stored}]
    for entry in entries:
        text = entry.get("template") if isinstance(entry, dict) else entry
        if text is not None and not isinstance(text, str):
            raise _bad_template(config, f"a chat_template of type {type(text).__name__}")
        found += [(config, text)] if text is not None else []
    return found


def _bad_template(path: Path, found: str) -> ModelError:
    return ModelError(
        f"a chat template that cannot be used: {found}",
        expected="a Jinja template of at most 1 MiB in UTF-8",
        cure="correct the template, or remove it and choose one in the recipe (chat: {template: ...})",
        place=str(path),
    )


def _try_out(path: Path, templates: list[tuple[Path, str]]) -> None:
    """Let a sandboxed process load, encode and compile; content that passed once is not tried again."""
    trials = {sha256_file(path): (path, {"tokenizer": str(path.absolute())})}
    trials |= {hash_text(text): (place, {"template": text}) for place, text in templates}
    trials = {digest: trial for digest, trial in trials.items() if digest not in _PASSED}
    if not trials:
        return
    with Pool("posttrain.models.tokenizer_files:run_trial", limits=_TRIAL_LIMITS) as pool:
        answers = pool.map([job for _, job in trials.values()])
    for (place, job), answer in zip(trials.values(), answers, strict=True):
        if not isinstance(answer, SandboxError):
            continue
        if "template" in job:
            raise _bad_template(place, answer.found[:300])
        raise ModelError(
            f"the tokenizer fails a trial in a sandbox: {answer.found[:300]}",
            expected="a tokenizer that loads and encodes a few short texts within seconds",
            cure=_RESTORE,
            place=str(place),
        )
    _PASSED.update(trials)


def run_trial(job: dict[str, str]) -> int:
    """Load a tokenizer and encode texts that provoke its rules, or compile a chat template.

    Run in a sandboxed process only: whatever is raised (a panic of the regex engine is a BaseException)
    and whatever kills the process is caught there.

    Args:
        job: `{"tokenizer": path}` or `{"template": text}`.

    Returns:
        The number of tokens that the texts gave; 0 for a template.
    """
    if "template" in job:
        compile_template(TemplateProgram(job["template"]))
        return 0
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(job["tokenizer"])
    num_tokens = 0
    for text in _TRIAL_TEXTS:
        ids = tokenizer.encode(text, add_special_tokens=True).ids
        tokenizer.decode(ids, skip_special_tokens=False)
        num_tokens += len(ids)
    return num_tokens
