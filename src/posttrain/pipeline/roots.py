"""Which folders a recipe may name files in, and what a reference in a recipe stands for.

A recipe may come from anyone, so a path in it must stay, after every symbolic link is followed, under
one of the declared roots: the folder that holds the recipe, the folder the command was started in, and
the folder that the environment variable `POSTTRAIN_DATA` names, if it is set. Environment variables
are never expanded inside a recipe; `posttrain-data:math/train.jsonl` is the way to name a file below
`POSTTRAIN_DATA`, so that the recipe is the same text on every machine.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from posttrain.core.errors import RecipeError

DATA_VARIABLE = "POSTTRAIN_DATA"
DATA_PREFIX = "posttrain-data:"
_NAMED = re.compile(r"(lab|hub):")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*(:[\w.-]+)?)?")


@dataclass(frozen=True, slots=True)
class Roots:
    """The folders that a recipe's paths must stay under.

    Made by `declare_roots`, read by the recipe and by wiring. `base` is the recipe's folder, which
    relative paths start from. Example: for `/home/ann/project/recipes/demo.yaml` started in
    `/home/ann/project`, `../data/x.jsonl` is `/home/ann/project/data/x.jsonl` and is allowed;
    `../../x.jsonl` is not. `run` is the recipe's run folder, `reward_stages` the stages that make a reward
    model there, which a scorer may name in a path's place.
    """

    base: Path
    folders: tuple[Path, ...]
    data: Path | None = None
    run: Path | None = None
    reward_stages: tuple[str, ...] = ()

    def resolve(self, reference: str, *, place: str) -> Path:
        """Return the absolute path, links followed, that a path in a recipe stands for.

        Args:
            reference: Relative to the recipe's folder, absolute, or `posttrain-data:<path>`.
            place: Where the reference stands, for the message.

        Raises:
            RecipeError: It leaves the declared roots, or needs POSTTRAIN_DATA and that is not set.
        """
        if "\x00" in reference or not reference.strip():
            raise RecipeError(f"found {reference!r}", expected="a path", place=place)
        try:
            path = self._join(reference, place).resolve()
        except (OSError, RuntimeError, ValueError) as error:
            raise RecipeError(
                f"the path {reference!r} cannot be followed: {error}", expected="a path without loops", place=place
            ) from None
        if not any(path.is_relative_to(folder) for folder in self.folders):
            raise RecipeError(
                f"{reference!r} leads to {path}, which lies outside the declared roots",
                expected="a path below " + " or ".join(str(folder) for folder in self.folders),
                cure="move the file, start posttrain in a folder above it, or set "
                f"{DATA_VARIABLE} and write '{DATA_PREFIX}<path>'",
                place=place,
            )
        return path

    def _join(self, reference: str, place: str) -> Path:
        if not reference.startswith(DATA_PREFIX):
            return self.base / reference
        if self.data is None:
            raise RecipeError(
                f"{reference!r} needs the environment variable {DATA_VARIABLE}, which is not set",
                expected=f"{DATA_VARIABLE} to name the folder that your data lies in",
                cure=f"{DATA_VARIABLE}=/path/to/data posttrain ...",
                place=place,
            )
        return self.data / reference.removeprefix(DATA_PREFIX).lstrip("/")

    def locate(self, reference: str, *, place: str) -> Path | None:
        """Return the path that a reference stands for, or None when it is a name (`lab:base`, a Hub id).

        What could be both, `owner/name`, is a path if such a path exists below the recipe's folder.

        Raises:
            RecipeError: See `resolve`.
        """
        if _NAMED.match(reference):
            return None
        could_be_hub_id = _HUB_ID.fullmatch(reference) is not None and ".." not in reference
        if could_be_hub_id and not os.path.lexists(self.base / reference):
            return None
        return self.resolve(reference, place=place)


def declare_roots(recipe: Path) -> Roots:
    """Return the roots of a recipe file: its folder, the current folder, and POSTTRAIN_DATA if it is set."""
    base = recipe.resolve().parent
    named = os.environ.get(DATA_VARIABLE, "")
    data = Path(named).resolve() if named else None
    folders = dict.fromkeys([base, Path.cwd().resolve(), *([data] if data else [])])
    return Roots(base=base, folders=tuple(folders), data=data)
