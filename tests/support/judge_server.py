"""A server on this machine that speaks the protocol of a judge, and answers as a test wants."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, dict[str, str], str]  # status, headers, body


def says(content: str, tokens: tuple[int, int] = (100, 10)) -> Answer:
    usage = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]}
    return 200, {}, json.dumps({"choices": [{"message": {"content": content}}], "usage": usage})


def verdict(score: float) -> Answer:
    return says(json.dumps({"score": score, "reason": "as it sounds"}))


class Server:
    """Answers each request by `answer(body)`; remembers bodies, and how many requests were under way at once."""

    def __init__(self, key: str) -> None:
        self.answer: Callable[[dict[str, Any]], Answer] = lambda body: verdict(-1)
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.now = self.most = 0
        self.lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                headers: dict[str, str]
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer.lock:
                    outer.bodies.append(body)
                    outer.headers.append(dict(self.headers))
                    outer.now += 1
                    outer.most = max(outer.most, outer.now)
                if self.path != "/v1/chat/completions":
                    status, headers, text = 404, {}, self.path
                elif self.headers["Authorization"] != f"Bearer {key}":
                    status, headers, text = 401, {}, f"wrong key: {self.headers['Authorization']}"
                else:
                    status, headers, text = outer.answer(body)
                with outer.lock:
                    outer.now -= 1
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(text.encode())))
                with suppress(BrokenPipeError, ConnectionResetError):  # who asked may have given up
                    self.end_headers()
                    self.wfile.write(text.encode())

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1/"

    def in_turn(self, *answers: Answer) -> None:
        left = iter(answers)
        self.answer = lambda body: next(left)


@contextmanager
def served(key: str) -> Iterator[Server]:
    """A running server that wants `key`, and repeats another key in its refusal."""
    server = Server(key)
    thread = threading.Thread(target=server.http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.http.shutdown()
        server.http.server_close()
