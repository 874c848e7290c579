"""`posttrain verify`: hash an artifact's files again and compare them with its manifest."""

from __future__ import annotations

from posttrain.cli.options import ArtifactArgument, JsonOption, show_example

EXAMPLE = show_example("posttrain verify runs/demo/artifacts/0123456789abcdef0123456789abcdef")


def verify(artifact: ArtifactArgument, json: JsonOption = False) -> None:
    """Check that an artifact is as it was written.

    Every file is hashed again; a difference is named, and the exit code is 4.
    """
    from posttrain.cli.output import print_json, print_lines
    from posttrain.models.manifest import verify_artifact

    manifest = verify_artifact(artifact)
    if json:
        print_json({"artifact": str(artifact), "hash": manifest.hash, "files": len(manifest.files)})
    else:
        print_lines(f"{manifest.kind} {manifest.hash}: all {len(manifest.files)} files are as they were written")
