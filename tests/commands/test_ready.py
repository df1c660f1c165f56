"""`rlvr serve` says that it is ready when its own model is, and not before; and what it cannot serve."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from rlvr.commands import serve
from rlvr.commands.serve import ServeOptions
from rlvr.commands.server import Served
from rlvr.commands.which_model import Checkpoint
from rlvr.config import Config
from rlvr.model.source import Source
from rlvr.types import UserError


class Models(BaseHTTPRequestHandler):
    """What vLLM answers to /v1/models; the server's `reply` is its body."""

    def do_GET(self) -> None:
        body = self.server.reply  # type: ignore[attr-defined]
        self.send_response(200 if self.path == "/v1/models" else 404)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    with HTTPServer(("127.0.0.1", 0), Models) as listening:
        thread = threading.Thread(target=listening.serve_forever, daemon=True)
        thread.start()
        yield listening
        listening.shutdown()


def served(port: int, host: str = "127.0.0.1") -> Served:
    return Served(
        name="mine", base="b", revision=None, tokenizer=Path("t"), adapter=None, rank=1, dtype="float32", is_nf4=False,
        is_cuda=False, host=host, port=port, max_model_len=None, cache_gib=1,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("reply", "is_ready"),
    [
        (json.dumps({"data": [{"id": "mine-base"}, {"id": "mine"}]}), True),
        (json.dumps({"data": [{"id": "other"}]}), False),
        ("<html>", False),
        ("[]", False),
    ],
)
def test_only_the_own_model_counts(server: HTTPServer, reply: str, is_ready: bool) -> None:
    server.reply = reply.encode()  # type: ignore[attr-defined]
    for host in ("127.0.0.1", "0.0.0.0"):
        assert serve.is_listed(served(server.server_port, host)) == is_ready


def test_it_is_said_once_the_model_is_there(
    server: HTTPServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "POLL_SECONDS", 0.05)
    server.reply = b"{}"  # type: ignore[attr-defined]
    waiting = threading.Thread(target=serve.announce, args=(served(server.server_port),), daemon=True)
    waiting.start()
    time.sleep(0.2)
    assert capsys.readouterr().out == ""
    server.reply = json.dumps({"data": [{"id": "mine"}]}).encode()  # type: ignore[attr-defined]
    waiting.join(timeout=30)
    assert capsys.readouterr().out == f"ready: http://127.0.0.1:{server.server_port}/v1\n"


def test_nobody_answers() -> None:
    assert not serve.is_listed(served(1))


def test_a_model_with_layers_in_16_bits_is_refused_with_what_else_to_do(
    make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = make_config({"model.adapter": "lora", "model.quantization": "nf4-dynamic"})
    checkpoint = Checkpoint("models/grpo", cfg, Source("somewhere", None, None), None, None, Path())
    monkeypatch.setattr(serve, "stage", lambda name, sections: nullcontext(cfg))
    monkeypatch.setattr(serve, "find", lambda params, model, folder: checkpoint)
    options = ServeOptions(model=None, name=None, host="", port=0, max_model_len=None, cache_gib=1)
    with pytest.raises(UserError, match=r"cannot serve model.quantization nf4-dynamic.*rlvr generate"):
        serve.main(options, [])
