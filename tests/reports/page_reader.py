"""Reads a page as a browser's parser would, and lists what could act or load in it."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

PAGE_TAGS = {"html", "head", "meta", "title", "style", "script", "body"}
TEXT_TAGS = {
    "p",
    "h1",
    "h2",
    "h3",
    "h4",
    "span",
    "a",
    "b",
    "i",
    "br",
    "wbr",
    "small",
    "ul",
    "ol",
    "li",
    "dl",
    "dt",
    "dd",
    "pre",
    "code",
}
PART_TAGS = {
    "div",
    "header",
    "nav",
    "main",
    "section",
    "article",
    "details",
    "summary",
    "figure",
    "figcaption",
    "footer",
}
TABLE_TAGS = {"table", "thead", "tbody", "tr", "th", "td"}
DRAWING_TAGS = {"svg", "path", "g", "circle", "rect", "text", "line"}
ALLOWED_TAGS = PAGE_TAGS | TEXT_TAGS | PART_TAGS | TABLE_TAGS | DRAWING_TAGS
LOADING_ATTRIBUTES = {
    "src", "srcset", "srcdoc", "action", "formaction", "poster", "data", "background", "ping", "xlink:href", "style",
}  # fmt: skip


class PageReader(HTMLParser):
    """Collects elements, text, scripts and styles of a page; `faults` lists all that could act or load.

    `pictures` are the titles of the drawings that are read out.

    Args:
        page: The page.
        has_script: Whether the page has one script and one block of data, else none.
    """

    def __init__(self, page: str, *, has_script: bool = True) -> None:
        super().__init__(convert_charrefs=True)
        self.faults: list[str] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.styles: list[str] = []
        self.policy = ""
        self.words: list[str] = []
        self.tags: list[str] = []
        self.pictures: list[str] = []
        self._num_scripts = int(has_script)
        self._open = ""
        self.feed(page)
        self.close()
        self._check_policy()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self._open = tag
        self.tags.append(tag)
        if tag not in ALLOWED_TAGS:
            self.faults.append(f"<{tag}>")
        for name, value in attrs:
            if name.startswith("on") or name in LOADING_ATTRIBUTES:
                self.faults.append(f"{tag} {name}={value}")
            if name == "href" and not re.match(r"#[\w-]+$|data:text/csv;charset=utf-8,[\w%.~/-]*$", value or ""):
                self.faults.append(f"{tag} href={value}")
        if tag == "svg" and values.get("role") == "img":
            self.pictures.append("")
        if tag == "script":
            self.scripts.append((values, ""))
        if tag == "meta" and values.get("http-equiv") == "Content-Security-Policy":
            self.policy = values.get("content") or ""
        elif tag == "meta" and "http-equiv" in values:
            self.faults.append(f"meta {values}")

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open == "script":
            attributes, text = self.scripts[-1]
            self.scripts[-1] = (attributes, text + data)
        elif self._open == "style":
            self.styles.append(data)
        else:
            self.words.append(data)
            if self._open == "title" and self.pictures:
                self.pictures[-1] += data

    def handle_comment(self, data: str) -> None:
        self.faults.append(f"<!--{data}-->")

    @property
    def text(self) -> str:
        """What a reader sees, elements aside."""
        return "".join(self.words)

    def _check_policy(self) -> None:
        blocks = [text for attributes, text in self.scripts if attributes.get("type") == "application/json"]
        live = [text for attributes, text in self.scripts if attributes.get("type") != "application/json"]
        if [len(blocks), len(live)] != 2 * [self._num_scripts] or "<" in "".join(blocks):
            self.faults.append(f"{len(blocks)} data blocks and {len(live)} scripts")
        scripts = f"script-src {_source(''.join(live))}; " if self._num_scripts else ""
        expected = (
            f"default-src 'none'; style-src {_source(''.join(self.styles))}; {scripts}"
            "base-uri 'none'; form-action 'none'"
        )
        if self.policy != expected:
            self.faults.append(f"policy {self.policy}")
        if re.search(r"url\(|@import|expression\(", "".join(self.styles)):
            self.faults.append("a style that loads")


def _source(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
