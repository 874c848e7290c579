"""The shipped base: small, as its card says, with room for every later stage."""

from __future__ import annotations

import itertools
import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from posttrain.core.errors import ModelError
from posttrain.lab import base_model
from posttrain.lab.base_model import BASE_VERSION, CARD, find_lab_base
from posttrain.lab.source import LAB_VERSION, lab_rows
from posttrain.lab.tasks import SKILLS
from posttrain.lab.tokenizer import save_tokenizer
from posttrain.lab.world import ATTRIBUTE_OF, WORLD_SEED, build_world


@pytest.fixture(scope="module")
def folder():
    return find_lab_base()


@pytest.fixture(scope="module")
def card(folder):
    return json.loads((folder / CARD).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def tokenizer(folder):
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def model(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def test_it_takes_at_most_ten_megabytes_and_knows_no_chat(folder, tokenizer) -> None:
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 10 << 20
    assert tokenizer.chat_template is None


def test_its_card_names_this_version_of_the_lab(card) -> None:
    assert (card["name"], card["lab_version"], card["world_seed"]) == (
        f"lab:base@{BASE_VERSION}",
        LAB_VERSION,
        WORLD_SEED,
    )


def test_its_tokenizer_is_the_one_that_the_corpus_gives(folder, tmp_path) -> None:
    save_tokenizer(tmp_path)
    made, shipped = (json.loads((place / "tokenizer.json").read_text())["model"] for place in (tmp_path, folder))
    assert (made["vocab"], made["merges"]) == (shipped["vocab"], shipped["merges"])


def test_its_loss_on_held_out_documents_is_the_one_on_its_card(card, model, tokenizer) -> None:
    """Of 120 of 400 documents: the mean of so many lies within 0.1 nats."""
    total = count = 0.0
    with torch.no_grad():
        for row in itertools.islice(lab_rows("documents", "development"), 120):
            ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(row["text"], add_special_tokens=False).input_ids]])
            total += float(model(ids, labels=ids).loss) * (ids.shape[1] - 1)
            count += ids.shape[1] - 1
    assert abs(total / count - card["validation_loss"]) < 0.1


def test_every_skill_is_found_among_64_samples_and_none_is_certain(card) -> None:
    skills = card["measured"]["skills"]
    assert {skill.name for skill in SKILLS} == set(skills)
    assert [name for name, figures in skills.items() if figures["pass@64"] == 0] == []
    for group, figures in card["measured"]["groups"].items():
        assert figures["pass@8"] - figures["pass@1"] > 0.1, group
    assert 0.05 < card["measured"]["safety"]["refuses_forbidden"] < 0.8


def test_it_has_read_the_facts_that_it_was_never_asked_for(model, tokenizer) -> None:
    """Right values are likelier than the mean of wrong ones, for facts that are held out."""
    better = []
    with torch.no_grad():
        for fact in build_world().facts[::9]:
            attribute = ATTRIBUTE_OF[fact.attribute]
            scores = {}
            for value in [fact.value, *[other for other in attribute.values if other != fact.value][:5]]:
                text = attribute.statements[0].format(entity=fact.entity, value=value)
                ids = torch.tensor([tokenizer(text[0].upper() + text[1:] + ".").input_ids])
                scores[value] = -float(model(ids, labels=ids).loss) * ids.shape[1]
            better.append(max(scores, key=scores.__getitem__) == fact.value)
    assert sum(better) > 0.6 * len(better)  # one in six by chance


def test_an_installation_without_the_weights_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr(base_model, "__file__", str(tmp_path / "base_model.py"))
    with pytest.raises(ModelError, match="has no lab:base") as caught:
        find_lab_base()
    assert "posttrain lab build" in caught.value.cure
