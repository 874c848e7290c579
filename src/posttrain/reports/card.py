"""The model card: a README.md in the Hub's format, made from a run's files, with what speaks for and against it.

It is written into every exported folder and, on request, into a run's. A card never says more than the run's files:
what was not measured is named as such.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from posttrain.core.durable import write_text
from posttrain.core.errors import RecipeError
from posttrain.core.run_folder import ARTIFACT_MANIFEST, MODEL_CARD, RunFolder
from posttrain.reports.card_metadata import build_metadata, find_base, write_metadata
from posttrain.reports.card_sections import (
    list_weaknesses,
    write_data,
    write_evaluation,
    write_gates,
    write_lineage,
    write_monitors,
    write_rebuild,
    write_usage,
)
from posttrain.reports.checks import build_checks, build_overrides
from posttrain.reports.field_reader import FieldReader
from posttrain.reports.gaps import build_gaps
from posttrain.reports.gates import GateView, build_gates
from posttrain.reports.markdown import escape, write_name, write_table
from posttrain.reports.matrix import Matrix, build_matrix, index_metrics
from posttrain.reports.monitors import build_monitors
from posttrain.reports.raw_values import list_of, mapping_of, parse_object, text_of
from posttrain.reports.reward_models import list_warnings
from posttrain.reports.run_files import RunFiles, load_run

LIMITS = (
    "An interval speaks of other items like the ones that were asked, not of another training: one seed was trained.",
    "A task measures what its rows ask and its scorer can judge. No gate keeps a skill that no task measures.",
    "Words such as improved or worse are by 95 % intervals of each metric alone; among twenty metrics one may mislead.",
    "Rows that were decided on many times are no longer held out from whoever chose the recipe: see the looks.",
)


def build_run_card(root: Path) -> Path:
    """Write the card of the policy that a run passed on into the run's folder, and return its path.

    Raises:
        StorageError: run.json is missing or unreadable, or the card cannot be written.
    """
    files = load_run(root)
    path = RunFolder(root).model_card
    write_text(path, render_card(files))
    return path


def write_artifact_card(artifact: Path, out: Path) -> Path:
    """Write the card of an artifact into the folder that it was exported to, and return its path.

    What the artifact's run measured stands in it; without a run, what the manifest says.

    Raises:
        StorageError: The run's run.json is unreadable, or the card cannot be written.
    """
    manifest = _read_manifest(artifact)
    run = RunFolder(artifact.resolve().parent.parent)
    path = out / MODEL_CARD
    if artifact.resolve().parent == run.artifacts and run.run_json.is_file():
        write_text(path, render_card(load_run(run.root), policy=text_of(manifest.get("hash")), folder="."))
    else:
        write_text(path, render_manifest_card(manifest, out.name))
    return path


def render_card(files: RunFiles, *, policy: str | None = None, folder: str | None = None) -> str:
    """Return the card of a policy of a run.

    Args:
        files: The run.
        policy: Its hash; None: what the run passed on last.
        folder: Where the plain model folder lies for whoever reads the card; None: below the run's artifacts.

    Raises:
        RecipeError: The run measured nothing, and no policy is named.
    """
    reader, matrix = FieldReader(), build_matrix(files)
    place = _find_place(files, matrix, policy)
    chosen = matrix.columns[place].policy if place is not None else policy or ""
    gates, monitors, gaps = build_gates(files, reader), build_monitors(files.run, reader), build_gaps(files)
    manifest = _read_manifest(RunFolder(files.root).artifacts / chosen) if chosen.isalnum() else {}
    name = files.name
    rows = [*matrix.objectives, *matrix.others]
    label = matrix.columns[place].label if place is not None else ""
    indexed = index_metrics(files.run)
    entries = [indexed[row.task, row.name].get(label) for row in rows]
    lines = write_metadata(build_metadata(name, files.resolved, rows, entries))
    lines += [f"# {escape(name)}", "", *_introduce(files, matrix, place, chosen)]
    lines += _warn(files, gates, reader)
    if folder is None and manifest and not list_of(manifest.get("adapters")):
        folder = f"artifacts/{chosen}"
    arguments = _find_arguments(manifest)
    lines += write_usage(folder, arguments, has_template=_has_template(manifest))
    weaknesses = []
    if place is None:
        lines += ["## Evaluation", "", "Nothing was measured of this policy.", ""]
    else:
        lines += write_evaluation(matrix, place)
        weaknesses = list_weaknesses(matrix, place, gates, monitors, gaps)
    weaknesses += [
        f"The reward model of {escape(stage.name)}: {escape(warning, 600)}"
        for stage in files.stages
        for warning in list_warnings(stage.reward)
    ]
    lines += write_gates(files, gates) + write_monitors(monitors, label)
    lines += [
        "## Known weaknesses",
        "",
        *(f"* {said}" for said in weaknesses or ["None is known, which is no proof of none."]),
        "",
    ]
    lines += ["## Limits of this evidence", "", *(f"* {said}" for said in LIMITS), ""]
    lines += write_lineage(files, matrix.columns, gates) + write_data(files) + write_rebuild(files)
    return "\n".join(lines).rstrip() + "\n"


def render_manifest_card(manifest: Mapping[str, Any], name: str) -> str:
    """Return the card of an artifact whose run is not at hand: what it is, and that nothing is known of its skills."""
    facts = [(key.replace("_", " "), text_of(manifest.get(key))) for key in ("hash", "base_hash", "key")]
    facts += [("parent", text_of(parent)) for parent in list_of(manifest.get("parents"))]
    facts += [(key, text_of(value)) for key, value in mapping_of(manifest.get("versions")).items()]
    facts += [("override", text_of(override)) for override in list_of(manifest.get("overrides"))]
    arguments = _find_arguments(manifest)
    lines = write_metadata({"library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["posttrain"]})
    lines += [f"# {escape(name)}", "", "Exported by posttrain from an artifact whose run is not at hand.", ""]
    lines += write_usage(".", arguments, has_template=_has_template(manifest))
    lines += ["## Evaluation", "", "None is at hand: export it from its run's folder to have its results here.", ""]
    lines += ["## Lineage", "", *write_table(["what", "value"], [[escape(k), escape(v)] for k, v in facts if v])]
    return "\n".join(lines).rstrip() + "\n"


def _find_place(files: RunFiles, matrix: Matrix, policy: str | None) -> int | None:
    """Return the column of a policy, None where it was not measured."""
    if policy is not None:
        places = [place for place, column in enumerate(matrix.columns) if column.policy == policy]
        passed = [place for place in places if not matrix.columns[place].remark]
        return (passed or places)[-1] if places else None
    if not matrix.objectives and not files.stages:
        raise RecipeError(
            "nothing was made or measured in this run",
            expected="a run of which at least one stage ended",
            cure="let the run go on first",
            place=str(files.root),
        )
    return matrix.last


def _introduce(files: RunFiles, matrix: Matrix, place: int | None, policy: str) -> list[str]:
    base = find_base(files.resolved)
    names = [escape(stage.name) for stage in files.stages]
    text = f"A language model made from {write_name(base) if base else 'a base that is not recorded'}"
    text += f" in {len(names)} stage{'s' * (len(names) != 1)}" + (f" ({', '.join(names)})" if names else "") + "."
    if place is not None and place != matrix.last:
        column = matrix.columns[place]
        said = f"what {escape(column.heading)} made" if place else "the base itself"
        text += f" This is {said}" + (f", {column.remark} by its gate" if column.remark else "") + "."
    lines = [text, ""]
    if policy:
        said = f"Named by content: {write_name(policy)}. License: not recorded; it follows the base's and the data's."
        lines += [said, ""]
    return lines


def _warn(files: RunFiles, gates: list[GateView], reader: FieldReader) -> list[str]:
    """Return what a reader must know before anything else: an unfinished run, and what was overridden."""
    said = []
    status = text_of(files.run.get("status"))
    if status != "finished":
        said.append(f"The run is {escape(status) or 'of unknown status'}.")
    pairs = list(zip(files.stages, gates, strict=True))
    used = build_overrides(files.run, build_checks(files.run, reader), pairs, reader).used
    said += [f"It went on against {escape(name)}: {escape(found)}" for name, found in used]
    said += [f"Missing or unreadable: {escape(note)}" for note in files.notes[:5]]
    return [*(f"> {line}\n>" for line in said[:-1]), *(f"> {line}" for line in said[-1:]), *([""] if said else [])]


def _find_arguments(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a chat template is given beside the messages."""
    chat = mapping_of(manifest.get("chat"))
    return mapping_of(chat.get("template_arguments")) or mapping_of(chat.get("arguments"))


def _has_template(manifest: Mapping[str, Any]) -> bool:
    files = mapping_of(manifest.get("files"))
    return not files or any(name.endswith("chat_template.jinja") for name in files)


def _read_manifest(artifact: Path) -> dict[str, Any]:
    """Return an artifact's manifest, empty where it cannot be read."""
    try:
        return parse_object((artifact / ARTIFACT_MANIFEST).read_bytes()) or {}
    except OSError:
        return {}
