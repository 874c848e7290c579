"""The model card: the Hub reads it, it speaks for and against the model, and no text of others is alive in it."""

from __future__ import annotations

import ast
import itertools
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from markdown_it import MarkdownIt

from posttrain.core.errors import RecipeError, StorageError
from posttrain.reports.card import build_run_card, render_card, render_manifest_card, write_artifact_card
from posttrain.reports.markdown import escape, write_block, write_name
from posttrain.reports.run_files import load_run
from tests.reports.made_up_run import POLICIES, write_run
from tests.reports.payloads import PAYLOADS

MARKDOWN_TAGS = {
    "h1", "h2", "p", "ul", "ol", "li", "table", "thead", "tbody", "tr", "th", "td", "code", "pre", "strong",
    "blockquote",
}  # fmt: skip


class CardReader(HTMLParser):
    """Lists what Markdown came alive as; `faults` are tags and attributes that no card of ours has."""

    def __init__(self, card: str) -> None:
        super().__init__(convert_charrefs=True)
        self.faults: list[str] = []
        self.words: list[str] = []
        self.headings = 0
        body = ModelCard(card).text
        self.feed(MarkdownIt("commonmark", {"html": True}).enable("table").render(body))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.headings += tag in ("h1", "h2")
        if tag not in MARKDOWN_TAGS or any(name not in ("class", "start") for name, _ in attrs):
            self.faults.append(f"<{tag} {attrs}>")

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def handle_comment(self, data: str) -> None:
        self.faults.append(f"<!--{data}-->")

    @property
    def text(self) -> str:
        return "".join(self.words)


def write_demo(root: Path) -> Path:
    """Write the made-up run with a resolved recipe that names data and tasks."""
    write_run(root)
    resolved = {
        "model": {"source": "Qwen/Qwen2.5-0.5B"},
        "evaluate": [{"name": "held_out", "data": {"source": "hub:owner/questions:main", "split": "test"}}],
        "stages": [
            {"name": "sft", "type": "sft", "data": [{"source": "owner/chats", "split": "train", "rows": 8000}]},
            {"name": "sft-expert", "type": "sft", "data": [{"source": "data/own.jsonl"}, {"source": "owner/chats"}]},
        ],
    }
    (root / "recipe.resolved.json").write_text(json.dumps(resolved))
    return root


def test_the_hub_reads_base_data_tags_and_every_result(tmp_path: Path) -> None:
    card = ModelCard(build_run_card(write_demo(tmp_path / "run")).read_text(encoding="utf-8"))
    data = card.data
    assert isinstance(data, ModelCardData)
    assert (data.base_model, data.library_name, data.pipeline_tag) == (
        "Qwen/Qwen2.5-0.5B", "transformers", "text-generation",
    )  # fmt: skip
    assert (data.datasets, data.tags, data.license) == (["owner/chats"], ["posttrain", "sft"], None)
    assert data.model_name == "demo"
    results = data.eval_results
    assert results is not None and len(results) == 5
    first = results[0]
    assert isinstance(first, EvalResult)
    assert (first.dataset_type, first.dataset_name, first.dataset_split) == ("owner/questions", "held_out", "test")
    assert (first.metric_type, first.metric_value) == ("exact_match", 0.885)
    assert first.metric_args is not None and (first.metric_args["n"], first.metric_args["clusters"]) == (200, 50)
    again = ModelCardData(**{**data.to_dict(), "eval_results": results, "model_name": "demo"})
    assert again.to_dict() == data.to_dict()


def test_a_card_says_what_was_measured_decided_overridden_and_what_is_not_known(tmp_path: Path) -> None:
    page = CardReader(build_run_card(write_demo(tmp_path / "run")).read_text(encoding="utf-8"))
    assert page.faults == []
    for expected in (
        "A language model made from Qwen/Qwen2.5-0.5B in 2 stages (sft, sft-expert).",
        f"Named by content: {POLICIES['sft-expert']}.",
        "It went on against gate:sft-expert: hold",
        "It went on against sft-expert:length_caps: 27.0 % of 200 completions were cut at 32 tokens",
        "▲ +83.5 improved (",
        "Its gate was overridden.",
        "The gate's rule keep tools is unmeasured: ",
        "Monitor sycophancy: alarm. says 62 % of wrong claims too",
        "Its lowest score is 49.8 % (no interval) on writing.",
        "Not measured; to measure it, add num_samples: 8, pass_at: [1, 8]",
        "a policy that agrees in other words than the claim's",
        "7,955 trained on, 31 dropped: longer than max_length",
        "owner/chats, split train, 8,000 rows",
        "posttrain run recipe.yaml --override gate:sft-expert --override memory",
        "learning_rate: 1e-3          # warm-up 5 %, then cosine",
        "License: not recorded",
    ):
        assert expected in page.text.replace("\u00a0", " "), expected


def test_the_same_files_give_the_same_card(tmp_path: Path) -> None:
    first = build_run_card(write_demo(tmp_path / "a" / "run")).read_bytes()
    assert build_run_card(write_demo(tmp_path / "b" / "run")).read_bytes() == first


def test_a_policy_that_its_gate_refused_is_called_so_and_gets_its_own_results(tmp_path: Path) -> None:
    root = write_demo(tmp_path / "run")
    run = json.loads((root / "run.json").read_text())
    run["stages"][1]["gate"] |= {"decision": "roll_back", "is_overridden": False}
    (root / "run.json").write_text(json.dumps(run))
    files = load_run(root)
    refused = CardReader(render_card(files, policy=POLICIES["sft-expert"])).text
    assert "This is what sft-expert made, rolled back by its gate." in refused
    assert "This policy is rolled back: its gate did not let it through." in refused
    assert "88.5\u00a0%" in refused.partition("By stage")[0]
    passed_on = CardReader(render_card(files)).text
    assert f"Named by content: {POLICIES['sft']}." in passed_on
    assert "88.5\u00a0%" not in passed_on.partition("By stage")[0]
    unknown = render_card(files, policy="0" * 32)
    assert "Nothing was measured of this policy." in unknown and "model-index" not in unknown


def test_an_exported_folder_gets_the_card_of_its_run_or_of_its_manifest_alone(tmp_path: Path) -> None:
    root = write_demo(tmp_path / "run")
    artifact = root / "artifacts" / POLICIES["sft-expert"]
    artifact.mkdir(parents=True)
    manifest = {"hash": POLICIES["sft-expert"], "parents": ["a" * 32], "files": {"config.json": {}}, "adapters": []}
    (artifact / "manifest.json").write_text(json.dumps(manifest))
    out = tmp_path / "exported"
    out.mkdir()
    card = write_artifact_card(artifact, out).read_text(encoding="utf-8")
    assert 'folder = "."' in card and "model-index" in card
    assert "apply_chat_template" not in card, "its manifest lists no chat template"
    shutil.move(artifact, tmp_path / "alone")
    alone = write_artifact_card(tmp_path / "alone", out)
    text = alone.read_text(encoding="utf-8")
    assert alone == out / "README.md"
    assert "whose run is not at hand" in text and "`" + "a" * 32 + "`" not in text and "a" * 32 in text
    assert ModelCard(text).data.tags == ["posttrain"]


def test_the_code_that_a_card_shows_is_python_and_gives_the_template_its_arguments() -> None:
    manifest = {"files": {"chat_template.jinja": {}}, "chat": {"arguments": {"enable_thinking": False, "a b": 1}}}
    card = render_manifest_card(manifest, "demo")
    (code,) = re.findall(r"^```python\n(.*?)^```", card, re.MULTILINE | re.DOTALL)
    assert "return_dict=True, enable_thinking=False" in code and "a b" not in code
    assert any(isinstance(node, ast.Call) for node in ast.walk(ast.parse(code)))


@pytest.mark.parametrize("shift", range(3))
def test_thirty_script_injections_in_every_place_stay_text_in_a_card(tmp_path: Path, shift: int) -> None:
    given = itertools.cycle(PAYLOADS[shift * 10 :] + PAYLOADS[: shift * 10])
    chosen: dict[str, str] = {}

    def poison(text: str) -> str:
        return chosen.setdefault(text, next(given) + f" {len(chosen)}")

    card = build_run_card(write_run(tmp_path / "run", text=poison)).read_text(encoding="utf-8")
    page, clean = (
        CardReader(card),
        CardReader(build_run_card(write_run(tmp_path / "clean")).read_text(encoding="utf-8")),
    )
    assert page.faults == clean.faults == []
    assert page.headings == clean.headings
    assert page.text.count("alert(1)") > 20


@pytest.mark.parametrize(
    "payload", [*PAYLOADS, "# h", "- item", "1. one", "a | b", "`code`", "**b**", "===", "$x$", "a\n\n# b"]
)
def test_an_escaped_text_is_read_as_itself_and_as_nothing_else(payload: str) -> None:
    for line in (escape(payload), f"* {escape(payload)}", f"> {escape(payload)}", f"| {escape(payload)} |\n| --- |"):
        html = MarkdownIt("commonmark", {"html": True}).enable("table").render(line)
        assert not re.search(r"<(?!/?(p|ul|li|blockquote|table|thead|tr|th)>)", html), html
    assert re.search(r"(www|https?|javascript)(\.|:)", escape(payload)) is None


def test_a_fence_is_longer_than_any_in_the_text_and_a_name_that_is_none_is_no_code() -> None:
    assert write_block("a\n````\nb")[0] == "`````"
    assert write_name("owner/data:main") == "`owner/data:main`"
    assert write_name("a `b`") == "a \\`b\\`"


def test_a_run_in_which_nothing_was_made_has_no_card(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"schema": 1, "name": "demo", "status": "running"}')
    with pytest.raises(RecipeError):
        build_run_card(tmp_path)
    with pytest.raises(StorageError):
        build_run_card(tmp_path / "nowhere")


@pytest.mark.invariants
def test_values_of_the_wrong_type_anywhere_in_run_json_do_no_harm_to_a_card(tmp_path: Path) -> None:
    root = write_demo(tmp_path / "run")
    whole = json.loads((root / "run.json").read_text())
    odd = (None, 7, "x", [], {}, [[{}]], {"a": [None]}, True)
    for key in whole:
        for value in odd:
            (root / "run.json").write_text(json.dumps({**whole, key: value}))
            assert CardReader(render_card(load_run(root), policy=POLICIES["sft"])).faults == []


def test_a_long_recipe_is_cut_between_lines_and_the_card_says_what_is_left_out(tmp_path: Path) -> None:
    root = write_demo(tmp_path / "run")
    (root / "recipe.yaml").write_text("".join(f"# line {number:05d} of ten\n" for number in range(1, 1251)))
    card = build_run_card(root).read_text(encoding="utf-8")
    # A line has 20 characters with its break: 1,000 lines are the 20,000 that are shown.
    assert "# line 01000 of ten\n```" in card and "line 01001" not in card
    assert "250 more lines of the recipe are left out here" in card
