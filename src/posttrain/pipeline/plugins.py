"""Code of the user's own: stages, callbacks, scorers and tools from a Python file or an installed package.

A recipe names a plug-in as `file.py:name`, a file below the recipe's folder, or by the name of an entry
point of the group `posttrain.stages`, `posttrain.callbacks`, `posttrain.scorers` or `posttrain.tools`. Finding
one reads and hashes its source and never imports it, so that a plan runs no code of a recipe; loading one,
which only a run does, executes exactly the source that was hashed.

* A stage is a function `run(config, inputs, parts, context) -> dict[str, Artifact]` under the given
  name; its module also holds `Config`, a subclass of `posttrain.core.config.Config`, for its keys.
* A callback is an object, or a class without arguments, with `on_step` or `on_save`.
* A scorer is a function `f(prompts, completions, completion_ids, **columns)`, or a `Scorer`.
* A tool is a function of named parameters, whose result is turned into text.
"""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, TypeVar

from posttrain.core.config import Config, parse_config, suggest
from posttrain.core.errors import PosttrainError, RecipeError, RefusedError
from posttrain.core.hashing import hash_bytes, hash_digests, hash_json
from posttrain.core.records import Artifact
from posttrain.pipeline.roots import Roots

PluginKind = Literal["stage", "callback", "scorer", "tool"]
GROUPS: dict[PluginKind, str] = {
    "stage": "posttrain.stages",
    "callback": "posttrain.callbacks",
    "scorer": "posttrain.scorers",
    "tool": "posttrain.tools",
}
MAX_SOURCE_BYTES = 1 << 20
_FILE_REFERENCE = re.compile(r"(?P<file>.+\.py)(:(?P<name>.*))?")
RunFunction = Callable[..., dict[str, Artifact]]
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Plugin:
    """A plug-in that was found and hashed, and not imported.

    Made by `find_plugin`, kept in the recipe, read by lineage (`content_hash`) and by `load_object`.
    Example: `stages/tilt.py:run` beside the recipe has `file=<folder>/stages/tilt.py`, `module=""`,
    `attribute="run"`; an entry point `tilt = my_package.tilt:run` has `file=None` and
    `module="my_package.tilt"`.
    """

    kind: PluginKind
    reference: str
    attribute: str
    content_hash: str
    folder: Path
    file: Path | None = None
    module: str = ""


def is_file_reference(reference: str) -> bool:
    """Return whether a reference names a Python file (`rewards.py:brevity`)."""
    return _FILE_REFERENCE.fullmatch(reference) is not None


def list_plugin_names(kind: PluginKind) -> list[str]:
    """Return the names of the installed entry points of one kind, sorted."""
    return sorted({entry.name for entry in importlib.metadata.entry_points(group=GROUPS[kind])})


def find_plugin(kind: PluginKind, reference: str, roots: Roots, *, place: str) -> Plugin | None:
    """Return the plug-in that a reference names, hashed but not imported; None if there is no such entry point.

    Args:
        kind: What it is to be.
        reference: `file.py:name`, or the name of an entry point.
        roots: The recipe's roots; a file must lie below the recipe's own folder.
        place: Where the reference stands, for messages.

    Raises:
        RecipeError: The file is missing, outside the recipe's folder, no Python, or lacks the name; or
            two installed packages offer the same entry point.
    """
    if is_file_reference(reference):
        return _find_file(kind, reference, roots, place)
    return _find_entry_point(kind, reference, roots, place)


def _find_file(kind: PluginKind, reference: str, roots: Roots, place: str) -> Plugin:
    match = _FILE_REFERENCE.fullmatch(reference)
    name = match["name"] if match else None
    if match is None or not name or not name.isidentifier():
        raise RecipeError(
            f"found {reference!r}", expected=f"file.py:name, the name of the {kind} in the file", place=place
        )
    path = roots.resolve(match["file"], place=place)
    if not path.is_relative_to(roots.base):
        raise RecipeError(
            f"{reference!r} leads to {path}",
            expected=f"a Python file below the recipe's folder {roots.base}",
            cure="put the file beside the recipe",
            place=place,
        )
    sources = _read_sources(path, roots.base, place)
    defined = _defined_names(_parse(path, sources[path], place))
    needed = (name, "Config") if kind == "stage" else (name,)
    for wanted in needed:
        if wanted not in defined:
            raise RecipeError(
                f"{match['file']} defines no '{wanted}'",
                expected=f"a {kind} of that name" if wanted == name else "a class Config, for the keys of the stage",
                cure=suggest(wanted, defined),
                place=place,
            )
    return Plugin(kind, reference, name, _hash_sources(sources, roots.base), roots.base, file=path)


def _read_sources(path: Path, folder: Path, place: str) -> dict[Path, bytes]:
    """Return the source of a file and of every file below the folder that it imports, without importing any."""
    sources: dict[Path, bytes] = {}
    waiting = [path]
    while waiting:
        file = waiting.pop()
        if file in sources:
            continue
        try:
            with file.open("rb") as stream:
                source = stream.read(MAX_SOURCE_BYTES + 1)
        except OSError as error:
            raise RecipeError(
                f"{file} cannot be read: {error.strerror}", expected="a Python file", place=place
            ) from None
        if len(source) > MAX_SOURCE_BYTES:
            raise RecipeError(f"{file} has more than 1 MB", expected="a Python file", place=place)
        sources[file] = source
        waiting += [found for found in _local_imports(_parse(file, source, place), folder) if found not in sources]
    return sources


def _parse(file: Path, source: bytes, place: str) -> ast.Module:
    try:
        return ast.parse(source, filename=str(file))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None)
        raise RecipeError(
            f"{file}{f':{line}' if line else ''} is not Python: {getattr(error, 'msg', error)}",
            expected="a Python file",
            place=place,
        ) from None


def _local_imports(tree: ast.Module, folder: Path) -> Iterator[Path]:
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            parts = name.split(".")
            for depth in range(1, len(parts) + 1):
                stem = folder.joinpath(*parts[:depth])
                candidates = (stem.with_name(stem.name + ".py"), stem / "__init__.py")
                yield from (path.resolve() for path in candidates if path.is_file())


def _defined_names(tree: ast.Module) -> list[str]:
    """Return the names that a module binds at its top level, also inside `if` and `try`."""
    names: set[str] = set()
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        else:
            waiting += ast.iter_child_nodes(node)
    return sorted(names)


def _hash_sources(sources: dict[Path, bytes], folder: Path) -> str:
    names = {path: path.relative_to(folder) if path.is_relative_to(folder) else path for path in sources}
    return hash_digests({names[path].as_posix(): hash_bytes(source) for path, source in sources.items()})


def _find_entry_point(kind: PluginKind, name: str, roots: Roots, place: str) -> Plugin | None:
    found = {entry.value: entry for entry in importlib.metadata.entry_points(group=GROUPS[kind], name=name)}
    if not found:
        return None
    if len(found) > 1:
        raise RecipeError(
            f"several installed packages offer the {kind} '{name}': {', '.join(sorted(found))}",
            expected="one",
            cure="uninstall one of them, or name a Python file instead",
            place=place,
        )
    entry = next(iter(found.values()))
    version = f"{entry.dist.name} {entry.dist.version}" if entry.dist else ""
    content_hash = hash_json([entry.value, version, _hash_package(entry.module, place)])
    return Plugin(kind, name, entry.attr, content_hash, roots.base, module=entry.module)


def _hash_package(module: str, place: str) -> str:
    """Return the hash of the Python files of a module's top-level package, found without importing it."""
    top = module.split(".")[0]
    for finder in sys.meta_path:
        spec = finder.find_spec(top, None) if hasattr(finder, "find_spec") else None
        if spec is None:
            continue
        folders = [Path(folder) for folder in spec.submodule_search_locations or []]
        files = {path.relative_to(folder).as_posix(): path for folder in folders for path in folder.rglob("*.py")}
        if not folders and spec.origin:
            files = {Path(spec.origin).name: Path(spec.origin)}
        return hash_digests({relative: hash_bytes(path.read_bytes()) for relative, path in files.items()})
    raise RecipeError(
        f"the package '{top}' of this plug-in cannot be found", expected="an installed package", place=place
    )


def load_object(plugin: Plugin, *, place: str) -> Any:
    """Import a plug-in and return the object that its reference names. This runs the user's code.

    Raises:
        RefusedError: The source is no longer the one that was hashed.
        RecipeError: The code raised while it was imported, or lacks the name.
    """
    module = _load_module(plugin, place)
    if not hasattr(module, plugin.attribute):
        raise RecipeError(f"the plug-in defines no '{plugin.attribute}' once imported", place=place)
    return getattr(module, plugin.attribute)


def load_stage(plugin: Plugin, values: dict[str, Any], *, place: str) -> tuple[Config, RunFunction]:
    """Import a stage and return its configuration, read from a recipe's values, and its `run` function.

    Raises:
        RefusedError: See `load_object`.
        RecipeError: See `load_object`; the module has no `Config`, or the values do not fit it.
    """
    run = load_object(plugin, place=place)
    kind = getattr(_load_module(plugin, place), "Config", None)
    if not callable(run) or not (isinstance(kind, type) and issubclass(kind, Config)):
        raise RecipeError(
            f"the plug-in's Config is {kind!r} and '{plugin.attribute}' is {run!r}",
            expected="Config: a subclass of posttrain.core.config.Config, and a function "
            "run(config, inputs, parts, context)",
            place=place,
        )
    given = {"type": plugin.reference, **values} if "type" in kind.model_fields else values
    return parse_config(kind, given, place=place), run


def _load_module(plugin: Plugin, place: str) -> ModuleType:
    if plugin.file is None:
        return _run_user_code(lambda: importlib.import_module(plugin.module), plugin, place)
    name = f"posttrain_plugin_{plugin.file.stem}_{plugin.content_hash[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    sources = _read_sources(plugin.file, plugin.folder, place)
    if _hash_sources(sources, plugin.folder) != plugin.content_hash:
        raise RefusedError(
            "the plug-in's source has changed since the recipe was read",
            expected="the source that the plan names by its hash",
            cure="start the command again",
            place=str(plugin.file),
        )
    module = ModuleType(name)
    module.__file__ = str(plugin.file)
    source = sources[plugin.file]

    def execute() -> ModuleType:
        exec(compile(source, str(plugin.file), "exec"), module.__dict__)  # noqa: S102 (a run executes the user's plug-in)
        return module

    if str(plugin.folder) not in sys.path:
        sys.path.append(str(plugin.folder))  # a plug-in may import the files beside it; installed packages come first
    sys.modules[name] = module
    try:
        return _run_user_code(execute, plugin, place)
    except RecipeError:
        del sys.modules[name]
        raise


def _run_user_code(action: Callable[[], ModuleType], plugin: Plugin, place: str) -> ModuleType:
    try:
        return action()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # untrusted: a user's file may raise anything, SystemExit too
        raise _describe_failure(plugin, error, "a module that can be imported", place) from error


def call_plugin(plugin: Plugin, action: Callable[[], Result], *, place: str) -> Result:
    """Return what an imported plug-in's code gives; what it raises is the plug-in's error and names its line.

    Raises:
        RecipeError: The code raised. Errors of this project that pass through it (a full disk, say) stay themselves.
    """
    try:
        return action()
    except (KeyboardInterrupt, PosttrainError):
        raise
    except BaseException as error:  # untrusted: a user's code may raise anything, SystemExit too
        raise _describe_failure(plugin, error, f"a {plugin.kind} that does not raise", place) from error


def _describe_failure(plugin: Plugin, error: BaseException, expected: str, place: str) -> RecipeError:
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == str(plugin.file)] or frames
    return RecipeError(
        f"the plug-in {plugin.reference} raised {type(error).__name__}: {error}",
        expected=expected,
        cure=f"see line {own[-1].lineno} of {own[-1].filename}",
        place=place,
    )
