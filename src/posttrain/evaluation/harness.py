"""Tasks of lm-evaluation-harness: found by name, loaded with their documents and requests, named by content.

The harness decides what is asked (documents, prompts, examples, requests), how answers are filtered, and what they are
worth; who answers is this project (`harness_model`). A task may run code of its own while it is loaded: that of the
installed harness, and that of an `include` folder, which is the user's. Code of a data set is never run.

Source: Gao et al., "A framework for few-shot language model evaluation" (EleutherAI, lm-evaluation-harness).
"""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import io
import json
import logging
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from posttrain.core.errors import DataError, PosttrainError, RecipeError, RefusedError, TemplateError
from posttrain.core.hashing import hash_bytes, hash_digests, hash_json, hash_text
from posttrain.core.records import Message, Problem
from posttrain.evaluation.harness_task import HarnessTask

RenderChat = Callable[[Sequence[Message]], str]
"""Gives the text of a conversation, with what begins the assistant's next turn."""

_FEW_SHOT_SEED = 1234
_NUMPY_SEED = 1234
_PYTHON_SEED = 0
"""The harness's own seeds: with them the same examples stand before the same questions."""
_CODE_SUFFIXES = (".py", ".yaml", ".yml")
_BESIDE = ("task", "task_alias", "tag", "group", "dataset_path", "dataset_name", "dataset_kwargs", "metadata")
"""Keys of a task's configuration that name it or its data; what the data says is counted instead."""
_OUTPUT_TYPES = ("loglikelihood", "multiple_choice", "loglikelihood_rolling", "generate_until")
_UNREACHABLE = (
    "ConnectionError", "OfflineModeIsEnabled", "LocalEntryNotFoundError", "DatasetNotFoundError", "ConnectError",
    "ConnectTimeout", "ReadTimeout", "HfHubHTTPError", "EntryNotFoundError", "FileNotFoundError",
)  # fmt: skip
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


@dataclass(frozen=True, slots=True)
class LoadedTask:
    """A task of the harness with its documents and requests, ready to be asked of any policy.

    Made by `load_task`, read by `harness_answers`. `requests` are the harness's instances of each document, by its
    number; `hash` names all that decides an item.
    """

    name: str
    task: Any
    docs: Mapping[int, Any]
    requests: Mapping[int, Sequence[Any]]
    hash: str

    @property
    def output_type(self) -> str:
        """What is asked: one of `_OUTPUT_TYPES`."""
        return str(self.task.OUTPUT_TYPE)

    def list_problems(self) -> list[Problem]:
        """Return one problem for each document, by its number, with the prompt as text."""
        return [Problem(str(number), self.describe_prompt(number)) for number in self.docs]

    def describe_prompt(self, number: int) -> list[Message]:
        """Return what a document is asked with, as one text of a user; of a text that is weighed whole, nothing."""
        if self.output_type == "loglikelihood_rolling":
            return []
        return [{"role": "user", "content": str(self.requests[number][0].args[0])}]


def check_installed(place: str) -> None:
    """Check that the harness is installed, without importing it.

    Raises:
        RecipeError: It is not.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise RecipeError(
            "a task of lm-evaluation-harness, which is not installed",
            expected="the package lm-eval",
            cure="pip install 'posttrain[eval]'",
            place=place,
        )


def load_task(
    task: HarnessTask, include: Path | None, *, render_chat: RenderChat | None = None, allow_unsafe: bool = False
) -> LoadedTask:
    """Return a task with its documents and requests. This runs the harness's code, and that of `include`.

    Args:
        task: Which one, and how.
        include: The folder of further tasks, found.
        render_chat: Gives the text of a conversation, for `form: chat`.
        allow_unsafe: Whether a task may run what the policy writes, with nothing between it and this machine.

    Raises:
        RecipeError: The harness is not installed, has no such task, or `shots` contradicts the task.
        RefusedError: The task runs the policy's programs, or asks for pictures or sound.
        DataError: The task's data cannot be read, or its code raised.
    """
    place = f"evaluate: {task.name}"
    check_installed(place)
    with guard_harness(task.task, place):
        loaded = _build_task(task, include, place, allow_unsafe=allow_unsafe)
        _check_entry(vars(loaded.config), task, place, allow_unsafe=allow_unsafe)
        _check_output(loaded, task, place)
        _set_shots(loaded, task, place)
        _add_accuracy(loaded)
        is_chat = task.form == "chat"
        loaded.build_all_requests(
            limit=task.limit,
            apply_chat_template=is_chat,
            fewshot_as_multiturn=is_chat,
            chat_template=_adapt_chat(render_chat) if is_chat and render_chat is not None else None,
        )
        docs = dict(loaded.doc_iterator(limit=task.limit))
        requests: dict[int, list[Any]] = {number: [] for number in docs}
        for instance in loaded.instances:
            requests[instance.doc_id].append(instance)
        for instances in requests.values():
            instances.sort(key=lambda instance: instance.idx)
        return LoadedTask(task.name, loaded, docs, requests, _hash_task(loaded, docs, requests, include))


@contextlib.contextmanager
def guard_harness(name: str, place: str, *, is_silent: bool = True) -> Iterator[None]:
    """Run code of the harness and of its tasks: seeded as the harness is, its errors told as this project's.

    Args:
        name: The task.
        place: What messages call it.
        is_silent: Whether what it prints is swallowed too: not while a progress bar writes to the same terminal.

    Raises:
        DataError: The code raised, or the task's data cannot be reached.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    random.seed(_PYTHON_SEED)
    np.random.seed(_NUMPY_SEED)
    try:
        with contextlib.ExitStack() as stack:
            if is_silent:
                stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
                stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
            yield
    except PosttrainError:
        raise
    except Exception as error:  # code of the harness's tasks and of the user's own: it may raise anything
        raise _explain(error, name, place) from error
    finally:
        logger.setLevel(level)
        random.setstate(python_state)
        np.random.set_state(numpy_state)


def _explain(error: Exception, name: str, place: str) -> DataError:
    chain: list[BaseException] = [error]
    while (inner := chain[-1].__cause__ or chain[-1].__context__) is not None and inner not in chain:
        chain.append(inner)
    missing = next((one for one in chain if isinstance(one, ModuleNotFoundError)), None)
    kinds = {kind.__name__ for one in chain for kind in type(one).__mro__}
    text = f"{type(error).__name__}: {error}".strip()[:400]
    if missing is not None:
        found, expected = f"the task '{name}' needs the package '{missing.name}'", "the package to be installed"
        cure = f"pip install {missing.name}"
    elif not kinds.isdisjoint(_UNREACHABLE):
        found, expected = f"the data of the task '{name}' cannot be read: {text}", "its data, from the network or kept"
        cure = (
            "run it once with a network and without HF_HUB_OFFLINE and HF_DATASETS_OFFLINE, so that the data is kept "
            "below HF_HOME; or copy the task's YAML into an `include` folder and name files of your own there "
            "(dataset_path: json, dataset_kwargs: {data_files: ...})"
        )
    else:
        found, expected = f"the task '{name}' raised {text}", "a task that loads and judges its documents"
        cure = "check its YAML and its functions; the harness's own documentation says what they may hold"
    return DataError(found, expected=expected, cure=cure, place=place)


@lru_cache(maxsize=1)
def _list_built_in() -> Any:
    """Return the harness's own index of tasks; it reads thousands of files, once a process."""
    from lm_eval.tasks import TaskManager

    return TaskManager()


def list_members(name: str) -> list[str]:
    """Return the tasks that a name of the harness stands for: itself, or those of a group or a tag; none if unknown."""
    check_installed(name)
    manager = _list_built_in()
    return _expand(manager, name)


def _expand(manager: Any, name: str, depth: int = 0) -> list[str]:
    entry = manager.task_index.get(name)
    if entry is None or depth > 10:
        return []
    if name in manager.all_subtasks:
        return [name]
    if name in manager.all_tags:
        return sorted(entry.tags)
    members = (entry.cfg or {}).get("task") or []
    names = [member if isinstance(member, str) else member.get("task") or member.get("group") for member in members]
    return [found for member in names if isinstance(member, str) for found in _expand(manager, member, depth + 1)]


def _build_task(task: HarnessTask, include: Path | None, place: str, *, allow_unsafe: bool) -> Any:
    from lm_eval.tasks import TaskManager

    # The user's own come first: the harness's index takes seconds to read.
    own = None if include is None else TaskManager(include_path=str(include), include_defaults=False)
    manager = own if own is not None and task.task in own.task_index else _list_built_in()
    if task.task not in manager.task_index:
        raise RecipeError(
            f"the harness has no task '{task.task}'",
            expected="the name of one task" + (f", of the harness or of {include}" if include is not None else ""),
            cure=_suggest(task.task, [*(own.all_subtasks if own is not None else ()), *manager.all_subtasks]),
            place=place,
        )
    if task.task not in manager.all_subtasks:
        members = _expand(manager, task.task)
        raise RecipeError(
            f"'{task.task}' is a group of {len(members)} tasks",
            expected="the name of one task, whose documents are items",
            cure="add a task for each that is wanted: " + ", ".join(members[:8]) + (", ..." if members[8:] else ""),
            place=place,
        )
    # Before it is loaded, since loading may run its code already.
    _check_entry(manager.task_index[task.task].cfg or {}, task, place, allow_unsafe=allow_unsafe)
    return manager.load([task.task])["tasks"][task.task]


def _suggest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    return f"did you mean {' or '.join(map(repr, close))}?" if close else "`lm-eval ls tasks` lists them"


def _check_entry(config: Mapping[str, Any], task: HarnessTask, place: str, *, allow_unsafe: bool) -> None:
    """Refuse a task by its configuration: what runs programs of the policy, and what asks with more than text."""
    if config.get("unsafe_code") and not allow_unsafe:
        raise RefusedError(
            f"the task '{task.task}' runs the programs that the policy writes, in this process and without a sandbox",
            expected="a task that runs no programs",
            cure="take a task of type generation with the scorer code, which has a sandbox, or pass "
            "--allow-unsafe-execution",
            place=place,
        )
    if config.get("doc_to_image") or config.get("doc_to_audio"):
        raise RefusedError(
            f"the task '{task.task}' asks with pictures or sound",
            expected="a task of texts",
            cure="take another task",
            place=place,
        )


def _check_output(loaded: Any, task: HarnessTask, place: str) -> None:
    if loaded.OUTPUT_TYPE not in _OUTPUT_TYPES:
        raise RefusedError(
            f"the task '{task.task}' asks for {loaded.OUTPUT_TYPE!r}",
            expected=" or ".join(_OUTPUT_TYPES),
            cure="take another task",
            place=place,
        )


def _set_shots(loaded: Any, task: HarnessTask, place: str) -> None:
    own = loaded.get_config("num_fewshot")
    if task.shots and own == 0:
        raise RecipeError(
            f"shots: {task.shots}, and the task '{task.task}' is made for none",
            expected="shots: 0, as the harness would ask it all the same",
            cure="leave 'shots' out, or measure a copy of the task (`include`) without num_fewshot: 0",
            place=f"{place}: shots",
        )
    loaded.set_config(key="num_fewshot", value=own or 0 if task.shots is None else task.shots)
    loaded.set_fewshot_seed(seed=_FEW_SHOT_SEED)


def _add_accuracy(loaded: Any) -> None:
    """Have the harness compute its own `acc` of a multiple-choice task that lists no mean: an item needs a value."""
    from lm_eval.api.metrics import mean

    is_listed = any(function is mean for function in loaded.aggregation().values())
    if loaded.OUTPUT_TYPE == "multiple_choice" and not is_listed and not callable(loaded.config.process_results):
        loaded._metric_fn_list["acc"] = None
        loaded._aggregation_list["acc"] = mean
        loaded._higher_is_better["acc"] = True


def _adapt_chat(render_chat: RenderChat) -> Callable[..., str]:
    """Return a renderer as the harness calls one; a last message of the assistant is gone on with."""

    def render(messages: Sequence[Message], add_generation_prompt: bool = True) -> str:
        asked, begun = (messages, "") if add_generation_prompt else (messages[:-1], str(messages[-1]["content"]))
        try:
            return render_chat(asked) + begun
        except TemplateError:  # as the harness does: a template without a system turn is asked without one
            others = [message for message in asked if message["role"] != "system"]
            if len(others) == len(asked):
                raise
            return render_chat(others) + begun

    return render


def _hash_task(
    loaded: Any, docs: Mapping[int, Any], requests: Mapping[int, Sequence[Any]], include: Path | None
) -> str:
    """Return the hash of a task's settings, version, code, documents and requests."""
    import lm_eval

    settings = {key: value for key, value in loaded.dump_config().items() if key not in _BESIDE}
    asked = [
        hash_text(_describe(doc), *(_describe([x.request_type, x.args, x.repeats]) for x in requests[number]))
        for number, doc in docs.items()
    ]
    code = _hash_code(include) if include is not None else ""
    # Settings name functions by what they are in memory, as texts too; what they make stands in the requests as it is.
    return hash_json([_ADDRESS.sub("", _describe(settings)), str(loaded.VERSION), lm_eval.__version__, code, asked])


def _describe(value: Any) -> str:
    """Return a value as text, the same in every process: texts as they are, other objects without their address."""
    return json.dumps(value, default=_describe_other, ensure_ascii=True)


def _describe_other(value: Any) -> Any:
    if isinstance(value, set | frozenset):
        return sorted(_describe(part) for part in value)
    return _ADDRESS.sub("", str(value))


def _hash_code(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.suffix in _CODE_SUFFIXES and path.is_file())
    return hash_digests({path.relative_to(folder).as_posix(): hash_bytes(path.read_bytes()) for path in files})
