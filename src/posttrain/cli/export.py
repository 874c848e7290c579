"""`posttrain export`: write an artifact as a plain Hugging Face folder, proven to behave the same."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from posttrain.cli.options import ArtifactArgument, JsonOption, OutArgument, show_example

EXAMPLE = show_example("posttrain export runs/demo/artifacts/0123456789abcdef0123456789abcdef my-model")
DtypeOption = Annotated[
    str | None, typer.Option("--dtype", help="float32 or bfloat16; by default what the base is stored in.")
]


def export(artifact: ArtifactArgument, out: OutArgument, dtype: DtypeOption = None, json: JsonOption = False) -> None:
    """Write a plain model folder, proven to behave the same.

    transformers loads it; adapters are merged. The ids of 20 conversations, the first 32 greedy tokens,
    the logits and the stop tokens must agree; otherwise nothing is written. README.md is the model card.
    """
    write_export(artifact, out, dtype, is_json=json)


def write_export(artifact: Path, out: Path, dtype: str | None, *, is_json: bool) -> None:
    """Export, and print what the proof covered."""
    from dataclasses import asdict

    from posttrain.cli.output import print_json, print_lines
    from posttrain.core.config import suggest
    from posttrain.core.errors import RecipeError

    if dtype not in (None, "float32", "bfloat16"):
        known = ("float32", "bfloat16")
        raise RecipeError(
            f"found {dtype!r}", expected="float32 or bfloat16", cure=suggest(dtype, known), place="--dtype"
        )
    from posttrain.models.exporting import export_policy
    from posttrain.reports.card import write_artifact_card

    proof = export_policy(artifact, out, weights_dtype=dtype)
    card = write_artifact_card(artifact, out)
    if is_json:
        print_json({"folder": str(out), **asdict(proof), "card": str(card)})
        return
    print_lines(
        f"written: {out} ({proof.dtype}), its model card: {card.name}",
        f"proven equal to the artifact: ids of {proof.num_conversations} conversations, {proof.num_tokens} greedy "
        f"tokens, stop tokens; merging moved the logits by {proof.merge_difference:.1g} of the largest",
    )
