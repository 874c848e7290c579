"""Where a verb writes: never over what it reads, and no two outputs in one place."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from posttrain.core.errors import RecipeError

PAGE_SUFFIX = ".html"


def check_outputs(outputs: Mapping[str, Path | None], inputs: Iterable[Path]) -> None:
    """Refuse an output that would replace an input, lie in a folder that is one, or be another output too.

    Args:
        outputs: Where is written, by the option that says so; None for what is not asked for. What `--page` names must
            end in `.html`.
        inputs: Files and folders that are read; those that do not exist are no files (`lab:base`, a Hub id).

    Raises:
        RecipeError: See above; the place is the option.
    """
    given = {option: path for option, path in outputs.items() if path is not None}
    read = [path for path in inputs if os.path.exists(path)]
    for option, path in given.items():
        if option == "--page":
            check_page(path)
        taken = next((source for source in read if _replaces(path, source)), None)
        if taken is not None:
            found = f"{path} is one of the sources: {taken}, which would be replaced or changed"
            raise RecipeError(found, expected="a file that is not read", cure="name another file", place=option)
        twin = next((other for other in given if other != option and _is_same(path, given[other])), None)
        if twin is not None:
            raise RecipeError(f"{path} is the file of {twin} too", expected="a file of its own for each", place=option)


def check_page(path: Path) -> None:
    """Refuse a page whose name does not end in `.html`: it might be some other file, which would be replaced.

    Raises:
        RecipeError: The name ends otherwise.
    """
    if path.suffix.casefold() != PAGE_SUFFIX:
        cure = f"name it {path.stem}{PAGE_SUFFIX}"
        raise RecipeError(f"found {path}", expected=f"a name that ends in {PAGE_SUFFIX}", cure=cure, place="--page")


def _is_same(path: Path, other: Path) -> bool:
    if os.path.realpath(path) == os.path.realpath(other):
        return True
    return os.path.exists(path) and os.path.exists(other) and os.path.samefile(path, other)


def _replaces(path: Path, source: Path) -> bool:
    if os.path.isdir(source):
        return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(source))
    return _is_same(path, source)
