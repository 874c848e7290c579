"""An OpenAI-compatible endpoint on 127.0.0.1 that answers as a test tells it to, well or badly."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from posttrain.core.records import Problem
from posttrain.samplers.served_settings import ServedSettings

QUICK = {"backoff_seconds": 0.001, "max_backoff_seconds": 0.004, "max_attempts": 4, "deadline_seconds": 60.0}
"""Limits for tests: attempts follow one another at once."""


@dataclass
class Call:
    """A request as it came in, and what it may be answered with."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    handler: BaseHTTPRequestHandler
    number: int
    released: threading.Event

    def reply(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        """Answer with a JSON value, or with bytes as they are."""
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.handler.send_response(status)
        for name, text in {"Content-Type": "application/json", **(headers or {})}.items():
            self.handler.send_header(name, text)
        if "Content-Length" not in (headers or {}):
            self.handler.send_header("Content-Length", str(len(content)))
        self.handler.end_headers()
        self.handler.wfile.write(content)

    def answer(self, text: str | None = None, **changes: Any) -> None:
        """Answer properly; without a text, with the echo of the last message."""
        self.reply(chat_answer(echo(self.body) if text is None else text, **changes))

    def hang(self) -> None:
        """Say nothing until the test is over."""
        self.handler.close_connection = True
        self.released.wait()

    def write(self, content: bytes) -> None:
        """Send bytes as they are, and close the connection."""
        self.handler.close_connection = True
        self.handler.wfile.write(content)


def echo(body: dict[str, Any]) -> str:
    """What the endpoint answers: a function of prompt and seed."""
    said = body["messages"][-1]["content"] if "messages" in body else body["prompt"]
    return f"echo of {said} with {body['seed']}"


def chat_answer(text: str | None, finish_reason: str | None = "stop", **changes: Any) -> dict[str, Any]:
    """An answer in chat format, with usage of 10 and 5 tokens."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    return {"object": "chat.completion", "choices": [choice], "usage": usage, "system_fingerprint": "fp_1", **changes}


@dataclass
class Endpoint:
    """The server; a context manager. `respond` answers every POST, in a thread of its own for each connection."""

    respond: Callable[[Call], None] = lambda call: call.answer()
    models: Any = None
    calls: list[Call] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Endpoint:
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._make_handler())
        self._server.daemon_threads = True
        self._server.block_on_close = False  # what hangs is woken by `released` below
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def settings(self, **changes: Any) -> ServedSettings:
        """Settings for this endpoint, quick to try again."""
        limits = {**QUICK, **changes.pop("limits", {})}
        return ServedSettings(**{"base_url": self.url, "model": "tiny", "limits": limits, **changes})

    def _make_handler(endpoint: Endpoint) -> type[BaseHTTPRequestHandler]:  # noqa: N805 - `self` is the handler's
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._call({}).reply(endpoint.models or {"object": "list", "data": [{"id": "tiny", "root": "tiny"}]})

            def do_POST(self) -> None:
                size = int(self.headers["Content-Length"])
                content = self.rfile.read(size)
                if len(content) < size:  # the client left while it wrote
                    self.close_connection = True
                    return
                call = self._call(json.loads(content))
                with endpoint._lock:
                    call.number = len(endpoint.calls)
                    endpoint.calls.append(call)
                try:
                    endpoint.respond(call)
                except OSError:  # the client is gone
                    self.close_connection = True

            def _call(self, body: dict[str, Any]) -> Call:
                headers = {name.lower(): text for name, text in self.headers.items()}
                return Call(self.path, headers, body, self, 0, endpoint.released)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        return Handler


def build_problems(count: int) -> list[Problem]:
    """Problems with a prompt each."""
    return [Problem(f"p{number}", [{"role": "user", "content": f"question {number}"}]) for number in range(count)]
