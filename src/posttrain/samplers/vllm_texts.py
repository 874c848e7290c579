"""Where texts matter to an engine of ids: the tokenizer it is given, and stop strings found in what it drew."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Cut:
    """Where a stop string ended a completion: how many ids it took, and the text before it."""

    num_ids: int
    text: str


def cut_at_stop_string(
    ids: Sequence[int], decode: Callable[[Sequence[int]], str], stop_strings: Sequence[str]
) -> Cut | None:
    """Return the shortest beginning of the ids whose text holds a stop string, or None if the whole holds none.

    Example: ids of "one", " t", "wo", " three" and the stop string "two": 3 ids, and the text "one ".
    """
    if _find_first(decode(ids), stop_strings) is None:
        return None
    # An engine that looks for stop strings itself ends with the id that completes one: only the whole holds it.
    is_last = _find_first(decode(ids[:-1]), stop_strings) is None
    # The text of a beginning may end in half a character, so every beginning is decoded from its start.
    for length in range(len(ids) if is_last else 1, len(ids) + 1):
        text = decode(ids[:length])
        if (position := _find_first(text, stop_strings)) is not None:
            return Cut(length, text[:position])
    return None


def _find_first(text: str, stop_strings: Sequence[str]) -> int | None:
    found = [position for string in stop_strings if (position := text.find(string)) >= 0]
    return min(found, default=None)


def prepare_tokenizer(folder: Path, target: Path, stop_ids: Sequence[int]) -> Path | None:
    """Return the folder of a tokenizer that calls the first stop id its end of sequence, or None without one.

    A constraint may end only with what the tokenizer calls its end, and a chat's turn often ends with
    another token. The original folder is used where it says so already, else a copy at `target`.
    """
    if not (folder / "tokenizer.json").is_file():
        return None
    settings_path = folder / "tokenizer_config.json"
    settings = json.loads(settings_path.read_text(encoding="utf-8")) if settings_path.is_file() else {}
    if not stop_ids:
        return folder
    text = _find_token(json.loads((folder / "tokenizer.json").read_text(encoding="utf-8")), stop_ids[0])
    named = settings.get("eos_token")
    if text is None or text == (named.get("content") if isinstance(named, dict) else named):
        return folder
    target.mkdir()
    for name in ("tokenizer.json", "tokenizer.model", "config.json"):
        if (folder / name).is_file():
            shutil.copyfile(folder / name, target / name)
    (target / "tokenizer_config.json").write_text(json.dumps({**settings, "eos_token": text}), encoding="utf-8")
    return target


def _find_token(tokenizer: dict[str, Any], token_id: int) -> str | None:
    """Return the text by which a tokenizer file knows an id."""
    for token in tokenizer.get("added_tokens", []):
        if token["id"] == token_id:
            return str(token["content"])
    vocabulary = tokenizer.get("model", {}).get("vocab", {})
    if isinstance(vocabulary, list):  # a unigram model's: pairs of text and score, in the order of ids
        return str(vocabulary[token_id][0]) if token_id < len(vocabulary) else None
    return next((text for text, number in vocabulary.items() if number == token_id), None)
