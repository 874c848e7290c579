"""`posttrain merge`: fold an artifact's adapters into its base."""

from __future__ import annotations

from posttrain.cli.export import DtypeOption, write_export
from posttrain.cli.options import ArtifactArgument, JsonOption, OutArgument, show_example

EXAMPLE = show_example("posttrain merge runs/demo/artifacts/0123456789abcdef0123456789abcdef merged-model")


def merge(artifact: ArtifactArgument, out: OutArgument, dtype: DtypeOption = None, json: JsonOption = False) -> None:
    """Fold an artifact's adapters into its base.

    What is written is a plain model folder, proven as `export` proves it. An artifact without adapters is
    refused: there is nothing to merge, and `export` writes it.
    """
    from posttrain.core.errors import ModelError
    from posttrain.models.manifest import load_manifest

    if not load_manifest(artifact).adapters:
        raise ModelError(
            "this artifact has no adapters",
            expected="an artifact of a base and at least one adapter",
            cure=f"posttrain export {artifact} {out}",
            place=str(artifact),
        )
    write_export(artifact, out, dtype, is_json=json)
