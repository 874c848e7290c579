"""From names in a recipe to live parts: rows, policies, renderers, scorers, callbacks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from posttrain.chat.rendering import Renderer
from posttrain.core.errors import DataError, RecipeError
from posttrain.core.hashing import hash_file, hash_folder
from posttrain.core.protocols import Callback, Progress
from posttrain.core.records import RenderedSample, TokenRows
from posttrain.core.run_folder import RunFolder
from posttrain.data.sources import DataSource, fingerprint
from posttrain.data.tokenized import TokenizedData, TokenizeSettings, load_token_rows
from posttrain.data.tokenizing import DataPlace
from posttrain.lab.source import lab_rows
from posttrain.models.text_tokenizer import HuggingFaceTextTokenizer
from posttrain.pipeline.decontaminating import OFF, RowSearch, list_searched_tasks
from posttrain.pipeline.plugins import Plugin, call_plugin, load_object
from posttrain.pipeline.recipe import Recipe
from posttrain.pipeline.stage_entries import StageEntry
from posttrain.pipeline.stage_rows import RowKeys, StageRows, T
from posttrain.stages.sft import SftConfig

PREVIEW_ROWS = 8
_INCOMPLETE = "\ufffd"
_MOST_TOKENS_OF_A_CHARACTER = 8


StageData = StageRows[TokenizedData]
"""The demonstrations or documents of a stage."""


def load_stage_rows(
    recipe: Recipe,
    config: RowKeys,
    load: Callable[[Sequence[DataSource], Sequence[Mapping[str, str]]], T],
    progress: Progress,
) -> StageRows[T]:
    """Return a stage's rows, as a function reads them of located sources and of the rows of each that are left out."""
    found = find_contaminated_rows(recipe, config.data, progress)
    train = load(locate_sources(recipe, config.data), found)
    return StageRows(train, load(locate_sources(recipe, config.validation), ()) if config.validation else None)


def find_place(recipe: Recipe, progress: Progress) -> DataPlace:
    """Return where a recipe's sources start and where their tokens are kept."""
    return DataPlace(recipe.root, RunFolder(recipe.folder).cache / "tokens", lab_rows, progress)


def load_stage_data(
    recipe: Recipe, config: SftConfig, renderer: Renderer, context_tokens: int | None, progress: Progress
) -> StageData:
    """Return a stage's rows, tokenized now or read from the run folder's cache.

    Args:
        recipe: Says where paths start and where the cache is.
        config: The stage's configuration.
        renderer: Turns messages into tokens.
        context_tokens: The model's longest row, which `max_length: null` stands for; None if it has no limit.
        progress: Shows tokenizing.

    Raises:
        DataError: A source cannot be read, or too many rows are bad or too long.
    """
    tokenizer: Any = renderer.tokenizer
    settings = TokenizeSettings(
        renderer_hash=renderer.format.hash,
        tokenizer_hash=tokenizer.content_hash,
        mode=config.mode,
        max_length=config.max_length or context_tokens,
        truncation=config.truncation,
        max_affected_fraction=config.max_affected_fraction,
        train_on=config.train_on,
    )

    place = find_place(recipe, progress)
    return load_stage_rows(
        recipe,
        config,
        lambda sources, left_out: load_token_rows(sources, renderer, settings, place, left_out),
        progress,
    )


def locate_sources(recipe: Recipe, sources: Sequence[DataSource]) -> list[DataSource]:
    """Return sources with every path made absolute, so that the data room needs to know no roots."""
    located = [recipe.locate(source.source) for source in sources]
    return [
        source if path is None else source.model_copy(update={"source": str(path)})
        for source, path in zip(sources, located, strict=True)
    ]


def fingerprint_sources(recipe: Recipe, sources: Sequence[DataSource]) -> list[str]:
    """Return the content hashes of sources: part of the key of whatever is made from them."""
    located = locate_sources(recipe, sources)
    return [fingerprint(source, root=recipe.root, row_source=lab_rows) for source in located]


def find_contaminated_rows(
    recipe: Recipe, sources: Sequence[DataSource], progress: Progress | None = None
) -> list[dict[str, str]]:
    """Return for each training source the rows that hold an item of the recipe's tasks: id, and how.

    Raises:
        DataError: Rows of either side cannot be read.
    """
    settings, tasks = recipe.head.decontaminate, list_searched_tasks(recipe)
    if settings is None or not tasks:
        return [{} for _ in sources]
    held_back = locate_sources(recipe, [task.data for task in tasks])
    search = RowSearch(recipe, settings, list(zip(tasks, held_back, strict=True)), progress)
    return [search.find(source) for source in locate_sources(recipe, sources)]


def identify_left_out(recipe: Recipe, sources: Sequence[DataSource]) -> dict[str, Any]:
    """Return what of decontamination decides a stage's artifact: the rows left out, and that none were looked for."""
    if recipe.head.decontaminate is None:
        return {"decontaminate": OFF}
    found = find_contaminated_rows(recipe, sources)
    return {"contaminated": [sorted(rows) for rows in found]} if any(found) else {}


def fingerprint_values(recipe: Recipe, values: Any) -> list[str]:
    """Return the content hashes of what a plug-in's plain values name under `source`, at any depth.

    A file or folder counts by its content, a name (`lab:...`, a Hub id) is part of the values already.

    Raises:
        DataError: A path that does not exist.
    """
    found: list[str] = []
    if isinstance(values, Mapping):
        if isinstance(values.get("source"), str):
            found += _hash_path(recipe.locate(values["source"]))
        values = list(values.values())
    if isinstance(values, list | tuple):
        found += [part for value in values for part in fingerprint_values(recipe, value)]
    return found


def _hash_path(path: Path | None) -> list[str]:
    if path is None:
        return []
    try:
        return [hash_folder(path) if path.is_dir() else hash_file(path)]
    except OSError as error:
        raise DataError(
            f"it cannot be read: {error.strerror or error}", expected="a file or folder", place=str(path)
        ) from None


def _make_object(plugin: Plugin, place: str) -> Any:
    """Import a plug-in and return the object it names; of a class, an instance."""
    found = load_object(plugin, place=place)
    return call_plugin(plugin, found, place=place) if isinstance(found, type) else found


def build_callbacks(entry: StageEntry) -> list[Callback]:
    """Return a stage's callbacks, imported now.

    Raises:
        RecipeError: The user's code cannot be imported, or does not do what a callback does.
    """
    callbacks = []
    for plugin in entry.callbacks:
        place = f"{entry.name}: callbacks"
        callbacks.append(_complete_callback(_make_object(plugin, place), plugin, place))
    return callbacks


def _complete_callback(given: Any, plugin: Plugin, place: str) -> Callback:
    names = ("on_step", "on_save")
    if not any(callable(getattr(given, name, None)) for name in names):
        raise RecipeError(
            f"the callback {plugin.reference} has neither on_step nor on_save",
            expected="an object or class with on_step(step, metrics, policy) or on_save(step, folder)",
            place=place,
        )

    class Complete:
        def on_step(self, *arguments: Any) -> None:
            call_plugin(plugin, lambda: getattr(given, "on_step", _ignore)(*arguments), place=place)

        def on_save(self, *arguments: Any) -> None:
            call_plugin(plugin, lambda: getattr(given, "on_save", _ignore)(*arguments), place=place)

    return Complete()


def _ignore(*arguments: Any) -> None:
    """A callback need not have both methods."""


def describe_rows(rows: Sequence[TokenRows], tokenizer: HuggingFaceTextTokenizer, count: int) -> list[dict[str, Any]]:
    """Return the first rows of each source in turn, token by token."""
    shown: list[dict[str, Any]] = []
    for index in range(max((len(part) for part in rows), default=0)):
        for part in rows:
            if index < len(part) and len(shown) < count:
                shown.append({"row_id": part.row_ids[index], "tokens": describe_sample(part.row(index), tokenizer)})
        if len(shown) >= count:
            break
    return shown


def describe_sample(sample: RenderedSample, tokenizer: HuggingFaceTextTokenizer) -> list[list[Any]]:
    """Return a sample as `[text, id, source, trainable]` for each token."""
    ids = sample.ids_T.tolist()
    sources, trainable = sample.sources_T.tolist(), sample.is_trainable_T.tolist()
    return [
        [text, token, source, int(is_trained)]
        for text, token, source, is_trained in zip(split_text(ids, tokenizer), ids, sources, trainable, strict=True)
    ]


def split_text(ids: list[int], tokenizer: HuggingFaceTextTokenizer) -> list[str]:
    """Return each token's text; a character of several tokens stands at the one that completes it."""
    texts: list[str] = []
    start = 0
    for end in range(1, len(ids) + 1):
        text = tokenizer.decode(ids[start:end])
        if text.endswith(_INCOMPLETE) and end - start < _MOST_TOKENS_OF_A_CHARACTER and end < len(ids):
            texts.append("")
            continue
        texts.append(text)
        start = end
    return texts
