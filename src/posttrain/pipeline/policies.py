"""From a recipe's `model:` and `chat:` to a policy's folder and the renderer that all stages share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from posttrain.chat.rendering import ChatFormat, Renderer, build_chat_format
from posttrain.chat.templates import PLAIN_TEMPLATE, TemplateProgram, build_template_renderer
from posttrain.core.config import suggest
from posttrain.core.errors import ModelError, RecipeError
from posttrain.core.hashing import hash_json
from posttrain.core.run_folder import RunFolder
from posttrain.core.seeds import derive_seed
from posttrain.lab.base_model import BASE_VERSION, find_lab_base
from posttrain.lab.seedling import build_seedling
from posttrain.lab.source import LAB_VERSION
from posttrain.models.loading import load_tokenizer, read_chat_template, read_generation_eos_ids, resolve_model
from posttrain.models.text_tokenizer import HuggingFaceTextTokenizer
from posttrain.pipeline.recipe import Recipe

LAB_MODELS = ("base", f"base@{BASE_VERSION}", "seedling")
"""What `lab:` models are called: the pretrained base, with its version or without, and its untrained beginning."""


def find_base(recipe: Recipe) -> Path:
    """Return the folder of the recipe's base model, building or downloading it if need be.

    Raises:
        RecipeError: The lab has no such model, or a revision is given for what has none.
        ModelError: The folder or the Hub has no such model.
    """
    source = recipe.model.source
    located = recipe.locate(source)
    if recipe.model.revision is not None and (located is not None or source.startswith("lab:")):
        raise RecipeError(
            f"a revision ({recipe.model.revision}) of '{source}', which has none",
            expected="a revision only where model is a Hub id",
            cure="leave revision out, or name the Hub's model: hub:owner/name",
            place="model.revision",
        )
    if source.startswith("lab:"):
        return find_lab_model(source, recipe)
    if located is None:
        return resolve_model(source, revision=recipe.model.revision, root=recipe.root)
    if not located.is_dir():
        raise ModelError(
            "there is no such folder",
            expected="a folder in Hugging Face format, an artifact, or a Hub id (hub:owner/name)",
            cure="check the path; relative paths start at the recipe's folder",
            place=str(located),
        )
    return located


def find_lab_model(source: str, recipe: Recipe | None = None) -> Path:
    """Return the folder of a `lab:` model; the seedling is made from a recipe's seed, in its run folder.

    Raises:
        RecipeError: The lab has no such model, or the seedling is asked for where there is no recipe.
        ModelError: The installation lacks the base model.
    """
    name = source.removeprefix("lab:")
    known = [model for model in LAB_MODELS if recipe is not None or model != "seedling"]
    if name not in known:
        raise RecipeError(
            f"the lab has no model '{name}'" + ("" if recipe else " outside of a recipe"),
            expected="one of " + ", ".join(f"lab:{model}" for model in known),
            cure=suggest(source, [f"lab:{model}" for model in known]),
            place="model",
        )
    if recipe is None or name != "seedling":
        return find_lab_base()
    seed = derive_seed(recipe.seed, "lab", name)
    folder = RunFolder(recipe.folder).cache / "models" / f"{name}-{hash_json([LAB_VERSION, seed])}"
    build_seedling(folder, seed)
    return folder


@contextmanager
def open_renderer(recipe: Recipe, base: Path) -> Iterator[Renderer]:
    """Yield the renderer of the base model's tokenizer and the recipe's chat settings.

    A template that is not the house's own renders in a sandbox, whose processes end with the context.

    Raises:
        ModelError: The tokenizer cannot be loaded.
        TemplateError: The template cannot be rendered, or no stop token can be found.
    """
    tokenizer = load_tokenizer(base)
    text_tokenizer = HuggingFaceTextTokenizer(tokenizer)
    program = _build_program(recipe, text_tokenizer, read_chat_template(tokenizer, base))
    template_renderer = build_template_renderer(program)
    try:
        chat_format = build_chat_format(
            program,
            template_renderer,
            text_tokenizer,
            eos_ids=[] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id],
            generation_eos_ids=read_generation_eos_ids(base),
        )
        yield Renderer(text_tokenizer, chat_format, template_renderer)
    finally:
        template_renderer.close()


def describe_chat(chat_format: ChatFormat) -> dict[str, Any]:
    """Return what an artifact's manifest keeps of the chat format beside template and stop ids."""
    return {"date": chat_format.date, "template_arguments": chat_format.template_arguments}


def _build_program(recipe: Recipe, tokenizer: HuggingFaceTextTokenizer, own_template: str | None) -> TemplateProgram:
    file = recipe.chat_template_file
    if file is not None:
        template = file.read_text(encoding="utf-8")
    elif recipe.chat.template == "plain":
        template = PLAIN_TEMPLATE
    else:
        template = own_template or PLAIN_TEMPLATE
    return TemplateProgram(template, {**tokenizer.template_tokens, **recipe.chat.arguments}, recipe.chat.date)
