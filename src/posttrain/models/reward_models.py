"""Reward models on disk and in memory: a policy's backbone with a head of scores, one member or several.

One member is a folder that transformers loads as `AutoModelForSequenceClassification`; an ensemble has one such folder
for each member beside one tokenizer:

    artifact/  tokenizer.json ... chat_template.jinja reward_model.json manifest.json
               config.json model.safetensors                            one member
               members/00/ config.json model.safetensors, members/01/   several

`reward_model.json` says what the numbers mean: `RewardFacts`. Adapters are merged into the backbone when it is saved.
A folder from elsewhere without that file is read as one member whose outputs are taken as they are.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from posttrain.core.durable import write_folder, write_json
from posttrain.core.errors import ModelError, StorageError
from posttrain.core.hashing import hash_json
from posttrain.core.run_folder import ARTIFACT_MANIFEST, REWARD_REPORT
from posttrain.core.seeds import build_torch_generator
from posttrain.models.adapters import list_adapters, merge_adapters
from posttrain.models.architectures import find_scoring_model_class
from posttrain.models.artifacts import save_tokenizer, save_weights
from posttrain.models.heads import find_backbone, find_causal_lm
from posttrain.models.loaded_policy import LoadedPolicy
from posttrain.models.loading import DTYPES, build_checked_model, load_tokenizer, read_chat_template
from posttrain.models.manifest import ArtifactFacts, Manifest, verify_artifact, write_manifest
from posttrain.models.validation import (
    CONFIG_FILE,
    REWARD_FACTS_FILE,
    check_links,
    check_model_folder,
    quiet_transformers,
    read_config,
)
from posttrain.models.weights import hash_weights, read_json_object

FACTS_FILE = REWARD_FACTS_FILE
MEMBERS_FOLDER = "members"
HEAD = "score"
SCHEMA = 1

Learned = Literal["pairwise", "regression", "process"]


@dataclass(frozen=True, slots=True)
class RewardFacts:
    """What a reward model's numbers mean.

    Made by `stages/reward_model.py`, kept in reward_model.json, read by `scorers/learned.py`. Output k of member m with
    raw value r stands for `(r - offsets[m][k]) * scales[k] + means[k]`: offsets put the members on one scale, scales
    and means give ratings back in the units that they came in. `length_slope` is the score that a completion gains for
    each of its tokens at equal quality, `mean_length` the length that keeps its score when it is taken off; None where
    it was not fitted. `separator` ends a step of a process reward model.

    Example: a model of pairs has `outputs == ("preference",)`, `scales == (1,)`, `means == (0,)`, and `offsets` the
    members' mean scores on the rows that they were validated on.
    """

    learned: Learned
    outputs: tuple[str, ...]
    offsets: tuple[tuple[float, ...], ...]
    scales: tuple[float, ...]
    means: tuple[float, ...]
    length_slope: float | None = None
    mean_length: float | None = None
    separator: str | None = None

    @property
    def num_members(self) -> int:
        """Members of the ensemble; 1 for a single model."""
        return len(self.offsets)

    def convert(self, raw_NK: npt.NDArray[np.float32], member: int) -> npt.NDArray[np.float64]:
        """Return what a member's raw outputs stand for."""
        offsets, scales, means = (np.asarray(part) for part in (self.offsets[member], self.scales, self.means))
        return np.asarray((raw_NK.astype(np.float64) - offsets) * scales + means, dtype=np.float64)


@dataclass(frozen=True, slots=True)
class LoadedRewardModel:
    """A reward model ready to score.

    Made by `load_reward_model`, read by `models/reward_scoring.py`. `hash` names the content: an artifact's hash, else
    that of the weights and the configuration.
    """

    members: tuple[Any, ...]
    facts: RewardFacts
    tokenizer: Any
    chat_template: str | None
    hash: str
    folder: Path
    manifest: Manifest | None = None


def make_head(hidden_size: int, num_outputs: int, seed: int) -> nn.Linear:
    """Return a head of scores in float32, without a bias, drawn from N(0, 1 / (H + 1)) by a stream of its own.

    Source: Stiennon et al., arXiv 2009.01325, appendix B.1.
    """
    head = nn.utils.skip_init(nn.Linear, hidden_size, num_outputs, bias=False, dtype=torch.float32)
    generator = build_torch_generator(seed, "reward head")
    with torch.no_grad():
        head.weight.normal_(0.0, (hidden_size + 1) ** -0.5, generator=generator)
    return head


def begin_head(model: nn.Module, num_outputs: int, seed: int) -> nn.Linear:
    """Return a new head of scores (`make_head`) for a causal LM, where the LM is.

    The LM's own head predicts nothing then, and is frozen where it is not the embedding too.
    """
    causal_lm = find_causal_lm(model)
    own_head = causal_lm.get_output_embeddings().weight
    if own_head is not causal_lm.get_input_embeddings().weight:
        own_head.requires_grad_(False)
    return make_head(own_head.shape[1], num_outputs, seed).to(own_head.device)


def find_score_head(model: nn.Module) -> nn.Linear:
    """Return a reward model's head.

    Raises:
        ModelError: It has none that is one linear map under the name that decoders of transformers use.
    """
    head = getattr(model, HEAD, None)
    if not isinstance(head, nn.Linear):
        raise ModelError(
            f"{type(model).__name__} has no linear head '{HEAD}'",
            expected="a decoder with a head of scores (AutoModelForSequenceClassification)",
            cure="use a reward model of a decoder architecture such as Llama, Qwen, Mistral or Gemma",
            place=HEAD,
        )
    return head


def check_scoring_class(model: nn.Module) -> Any:
    """Return the class that a policy's backbone with a head of scores is saved as.

    Raises:
        ModelError: transformers has no such class for its architecture, or one that reads its scores otherwise.
    """
    causal_lm = find_causal_lm(model)
    found = find_scoring_model_class(causal_lm.config)
    if found is not None and found.base_model_prefix == causal_lm.base_model_prefix:
        return found
    raise ModelError(
        f"transformers has no model with scores around the backbone of {type(causal_lm).__name__}",
        expected="an architecture with a class for AutoModelForSequenceClassification",
        cure="start the reward model from a policy of another architecture",
        place="model",
    )


def build_member(model: nn.Module, head_weight: torch.Tensor, tokenizer: Any) -> Any:
    """Return a policy's backbone with a head of scores as a model of transformers; the backbone is shared.

    Args:
        model: A causal LM without adapters.
        head_weight: [K, H].
        tokenizer: Its pad token is named in the configuration where it cannot end a completion.

    Raises:
        ModelError: The architecture has no such model.
    """
    model_class = check_scoring_class(model)
    config = copy.deepcopy(find_causal_lm(model).config)
    config.num_labels = int(head_weight.shape[0])
    config.problem_type = None
    # transformers reads the score before the first pad token: one that may end a turn would hide the turn's end.
    pad = tokenizer.pad_token_id
    config.pad_token_id = None if pad == tokenizer.eos_token_id else pad
    backbone = find_backbone(model)
    with quiet_transformers(), torch.device("meta"), torch.random.fork_rng(devices=[]):
        member = model_class._from_config(config, dtype=next(backbone.parameters()).dtype)
    setattr(member, member.base_model_prefix, backbone)
    head = find_score_head(member)
    if head.bias is not None or head.weight.shape != head_weight.shape:
        raise ModelError(
            f"the head of {type(member).__name__} takes {list(head.weight.shape)}, with bias {head.bias is not None}",
            expected=f"one linear map of shape {list(head_weight.shape)} without bias",
            cure="start the reward model from a policy of another architecture",
            place=HEAD,
        )
    member.score = nn.Linear(head_weight.shape[1], head_weight.shape[0], bias=False, device="meta")
    member.score.weight = nn.Parameter(head_weight.detach().clone())
    return member.eval()


@torch.no_grad()
def assemble_member(policy: LoadedPolicy, tensors: Mapping[str, torch.Tensor]) -> Any:
    """Return a trained member as a model of transformers, adapters merged in float32.

    Args:
        policy: What the member was trained from, in the form that it was trained in; it is used up.
        tensors: Trained tensors by the names of `training.reward_policy.ScoredRewardModel`.

    Raises:
        ModelError: A tensor belongs to no parameter, or as `build_member`.
    """
    model, left = policy.model, dict(tensors)
    head_weight = left.pop(f"{HEAD}.weight")
    for name, parameter in model.named_parameters():
        if f"model.{name}" in left:
            parameter.copy_(left.pop(f"model.{name}"))
    if left:
        raise ModelError(
            f"the policy has no parameter '{min(left)}'",
            expected="the parameters that were trained",
            cure="run the stage again",
            place="model",
        )
    return build_member(merge_adapters(model) if list_adapters(model) else model, head_weight, policy.tokenizer)


# many parameters: members, tokenizer, place, and what is written beside them
def save_reward_model(
    members: Iterable[Any],
    tokenizer: Any,
    folder: Path,
    facts: ArtifactFacts,
    reward_facts: RewardFacts,
    *,
    weights_dtype: str = "bfloat16",
    report: Mapping[str, Any] | None = None,
) -> Manifest:
    """Write a reward model and return its manifest; the folder appears whole or not at all.

    Args:
        members: As many models of transformers with a head of scores (`build_member`) as the facts name; each is asked
            for when the one before it is written.
        tokenizer: That of all members.
        folder: The artifact's folder; it must not exist.
        facts: Chat format and lineage; their kind is set here.
        reward_facts: What the numbers mean.
        weights_dtype: "bfloat16" or "float32".
        report: What validation rows say of it, kept in validation.json.

    Raises:
        ModelError: A value is not finite.
        StorageError: The folder exists, or cannot be written.
    """
    if folder.exists():
        raise StorageError(
            "the folder exists already",
            expected="a free place for an artifact, which is never written twice",
            cure="choose another folder, or remove this one if it is not needed",
            place=str(folder),
        )
    manifests: list[Manifest] = []

    def fill(target: Path) -> None:
        save_tokenizer(tokenizer, target, facts.chat_template)
        hashes = []
        for member, place in zip(members, _place_members(target, reward_facts.num_members), strict=True):
            place.mkdir(parents=True, exist_ok=True)
            save_weights(member, place, DTYPES[weights_dtype], None)
            hashes.append(hash_weights(place))
        write_json(target / FACTS_FILE, {"schema": SCHEMA, **asdict(reward_facts)})
        if report is not None:
            write_json(target / REWARD_REPORT, dict(report))
        kept = {name: getattr(facts, name) for name in ArtifactFacts.__dataclass_fields__} | {"kind": "reward_model"}
        manifests.append(write_manifest(target, ArtifactFacts(**kept), _name_members(hashes), []))

    write_folder(folder, fill)
    return manifests[0]


def _place_members(folder: Path, count: int) -> list[Path]:
    return [folder] if count == 1 else [folder / MEMBERS_FOLDER / f"{number:02d}" for number in range(count)]


def _name_members(hashes: Sequence[str]) -> str:
    return hashes[0] if len(hashes) == 1 else hash_json(list(hashes))


def load_reward_model(folder: Path, *, dtype: str = "float32", device: str = "cpu") -> LoadedRewardModel:
    """Return the reward model that a folder holds: an artifact of this project or a model from elsewhere.

    An artifact's files are all hashed again first.

    Args:
        folder: An artifact, or a folder in Hugging Face format with a head of scores.
        dtype: "float32", "bfloat16" or "float16", whatever the files hold.
        device: Where to put it.

    Raises:
        ModelError: The folder does not pass its checks, is no reward model, or its facts do not fit its members.
    """
    check_links(folder)
    manifest = verify_artifact(folder) if (folder / ARTIFACT_MANIFEST).exists() else None
    if manifest is not None and manifest.kind != "reward_model":
        raise _no_reward_model(f"an artifact of the kind '{manifest.kind}'", folder)
    facts = _read_facts(folder) if (folder / FACTS_FILE).exists() else None
    places = _place_members(folder, facts.num_members if facts is not None else 1)
    members = [_load_member(place, folder, dtype, device) for place in places]
    num_outputs = find_score_head(members[0]).weight.shape[0]
    if facts is None:
        if num_outputs != 1:
            raise _no_reward_model(f"a classifier of {num_outputs} classes without {FACTS_FILE}", folder)
        facts = RewardFacts("pairwise", ("preference",), ((0.0,),), (1.0,), (0.0,))
    if any(find_score_head(member).weight.shape[0] != len(facts.outputs) for member in members):
        raise _no_reward_model(f"a head of {num_outputs} outputs, where {len(facts.outputs)} are named", folder)
    num_embeddings = members[0].get_input_embeddings().weight.shape[0]
    tokenizer = load_tokenizer(folder, num_embeddings=num_embeddings)
    return LoadedRewardModel(
        members=tuple(members),
        facts=facts,
        tokenizer=tokenizer,
        chat_template=read_chat_template(tokenizer, folder),
        hash=name_reward_model(folder),
        folder=folder,
        manifest=manifest,
    )


def name_reward_model(folder: Path) -> str:
    """Return a reward model's name by content: an artifact's hash, else that of its weights and configuration.

    Raises:
        ModelError: The folder is no model, or an artifact that was changed.
    """
    if (folder / ARTIFACT_MANIFEST).exists():
        return verify_artifact(folder).hash
    facts = _read_facts(folder) if (folder / FACTS_FILE).exists() else None
    places = _place_members(folder, facts.num_members if facts is not None else 1)
    files = [folder / FACTS_FILE, folder / "tokenizer.json", *(place / CONFIG_FILE for place in places)]
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in files if path.exists()]
    return hash_json([_name_members([hash_weights(place) for place in places]), texts])


def _load_member(place: Path, folder: Path, dtype: str, device: str) -> Any:
    if not (place / CONFIG_FILE).exists():
        raise _no_reward_model(f"no {CONFIG_FILE} in {place.relative_to(folder.parent)}", folder)
    own = read_config(place).get("architectures") or [""]
    if str(own[0]).endswith("ForCausalLM"):
        raise _no_reward_model(f"{own[0]}, a model of language without a head of scores", folder)
    checked = check_model_folder(place, with_tokenizer=False, find_class=find_scoring_model_class)
    member = build_checked_model(checked, dtype, "sdpa", device)
    find_score_head(member)
    return member


def _read_facts(folder: Path) -> RewardFacts:
    values = read_json_object(folder / FACTS_FILE)
    known = set(RewardFacts.__dataclass_fields__)
    if values.get("schema") != SCHEMA or set(values) - {"schema"} != known:
        raise _no_reward_model(f"{FACTS_FILE} of schema {values.get('schema')!r}", folder)
    try:
        facts = RewardFacts(
            learned=values["learned"],
            outputs=tuple(map(str, values["outputs"])),
            offsets=tuple(tuple(map(float, row)) for row in values["offsets"]),
            scales=tuple(map(float, values["scales"])),
            means=tuple(map(float, values["means"])),
            length_slope=_read_number(values, "length_slope"),
            mean_length=_read_number(values, "mean_length"),
            separator=None if values["separator"] is None else str(values["separator"]),
        )
    except (TypeError, ValueError) as error:
        raise _no_reward_model(f"{FACTS_FILE}: {error}", folder) from None
    sizes = {len(facts.scales), len(facts.means), *map(len, facts.offsets)}
    is_whole = facts.num_members > 0 and sizes == {len(facts.outputs)} and bool(facts.outputs)
    is_known = facts.learned in ("pairwise", "regression", "process")
    if not (is_known and is_whole) or bool(facts.separator) != (facts.learned == "process"):
        raise _no_reward_model(f"{FACTS_FILE} whose parts do not belong together", folder)
    return facts


def _read_number(values: Mapping[str, Any], name: str) -> float | None:
    return None if values[name] is None else float(values[name])


def _no_reward_model(found: str, folder: Path) -> ModelError:
    return ModelError(
        found,
        expected="a reward model: an artifact of a stage of type reward_model, or a folder with one output of scores",
        cure="check the path; see docs/reward_models.md",
        place=str(folder),
    )
