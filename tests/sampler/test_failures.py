"""vLLM's own errors at its start, provoked for real: each becomes one message that says what to change."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from rlvr.sampler.failures import alive, engine_error
from rlvr.types import StepFailed, UserError

pytest.importorskip("vllm", reason="vLLM is not installed", exc_type=ImportError)

SHAPE = {
    "vocab_size": 32, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
    "head_dim": 32, "intermediate_size": 64, "max_position_embeddings": 128, "eos_token_id": 1,
}  # fmt: skip
# Starts engines one after another, as far as one that failed lets it; says what became of each.
SCRIPT = """
import json, os, sys
os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "CRITICAL"}
from vllm import LLM, SamplingParams
from rlvr.sampler.failures import engine_error

options = {"dtype": "float32", "enforce_eager": True, "max_model_len": 64, "skip_tokenizer_init": True}
for case in json.loads(sys.argv[1]):
    try:
        llm = LLM(**options | case)
        llm.generate([{"prompt_token_ids": [5, 6]}], SamplingParams(max_tokens=2, detokenize=False), use_tqdm=False)
        print("MESSAGE: it started", flush=True)
    except Exception as error:
        print("MESSAGE:", engine_error(error), flush=True)
"""


def model(folder: Path, **changes: object) -> str:
    """A tiny model; `changes` are of its config.json alone."""
    LlamaForCausalLM(LlamaConfig(**SHAPE)).save_pretrained(folder)
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return str(folder)


def messages(cases: list[dict[str, object]], **environment: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(cases)],
        check=False,
        env=os.environ | {"PYTHONPATH": "src", "VLLM_CPU_KVCACHE_SPACE": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    found = [part.strip() for part in done.stdout.split("MESSAGE:")[1:]]
    assert found, done.stderr[-2000:]
    return found


def test_settings_that_vllm_refuses(tmp_path: Path) -> None:
    """All are refused before anything starts, so that one process provokes them."""
    whole = model(tmp_path / "whole")
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "config.json").write_text((tmp_path / "whole" / "config.json").read_text())
    found = messages(
        [
            {"model": model(tmp_path / "kind", architectures=["StrangeForCausalLM"])},
            {"model": whole, "max_model_len": 5000},
            {"model": whole, "enable_lora": True, "max_lora_rank": 7},
            {"model": whole, "quantization": "bitsandbytes", "load_format": "bitsandbytes"},
            {"model": model(tmp_path / "type", model_type="strange")},
            {"model": str(empty)},
        ],
        VLLM_PLUGINS="",  # as where vllm-bnb-plugin is not installed
    )
    expected = (
        ("StrangeForCausalLM", "model.source", "rollout.sampler: native"),
        ("prepare.max_prompt_tokens + rollout.max_completion_tokens is 5000", "reads 128"),
        ("model.lora.rank to 1, 8, 16", "rollout.sampler: native"),
        ("pip install --no-deps -c constraints.txt vllm-bnb-plugin", "rollout.sampler: native"),
        ("of the type strange",),
        ("empty holds no weights",),
    )
    assert len(found) == len(expected), found
    for message, parts in zip(found, expected, strict=True):
        assert message.startswith("vLLM did not start: ")
        assert "\n" not in message
        assert all(part in message for part in parts), message


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "environment", "parts"),
    [
        ({}, {"VLLM_CPU_KVCACHE_SPACE": "9000"}, ("cache of keys and values does not fit", "9000.0 GiB", "max_rows")),
        ({}, {"VLLM_CPU_KVCACHE_SPACE": "0"}, ("cannot hold one sequence", "prepare.max_prompt_tokens")),
        ({"max_model_len": 10**7}, {}, ("cannot hold one sequence", "cache is needed", "native")),
        ({}, {"GLOO_SOCKET_IFNAME": "nosuch0"}, ("no network interface nosuch0", "GLOO_SOCKET_IFNAME")),
    ],
    ids=["memory", "no cache", "long", "network"],
)
def test_what_this_machine_does_not_have(
    case: dict[str, object], environment: dict[str, str], parts: tuple[str, ...], tmp_path: Path
) -> None:
    folder = model(tmp_path / "m", max_position_embeddings=10**7)
    (message,) = messages([{"model": folder} | case], **environment)
    assert all(part in message for part in parts), message


@pytest.mark.slow
def test_heads_that_are_too_small(tmp_path: Path) -> None:
    LlamaForCausalLM(LlamaConfig(**SHAPE | {"head_dim": 16})).save_pretrained(tmp_path)
    (message,) = messages([{"model": str(tmp_path)}])
    assert "heads of 16 numbers" in message
    assert "rollout.sampler: native" in message


@pytest.mark.slow
def test_weights_of_another_shape_are_an_error_of_no_known_kind(tmp_path: Path) -> None:
    (message,) = messages([{"model": model(tmp_path, vocab_size=72)}])
    assert "AssertionError" in message
    assert "another shape than config.json says" in message


@pytest.mark.parametrize(
    "error, said",
    [
        (
            RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"),
            r"2 GiB \(test_failures\.py, .*\): out of memory",
        ),
        (ValueError("no idea"), r"vLLM failed while sampling: ValueError: no idea \(test_failures\.py, \w+\)$"),
    ],
)
def test_an_engine_that_fails_later_says_what_it_did_its_last_words_and_what_is_known(
    error: Exception, said: str
) -> None:
    with pytest.raises(StepFailed, match=said) as caught, alive("sampling"):
        raise error
    assert caught.value.__cause__ is error


def test_the_cause_of_an_error_counts() -> None:
    try:
        try:
            raise OSError("[Errno 98] Address already in use")
        except OSError as error:
            raise RuntimeError("Engine core initialization failed") from error
    except RuntimeError as error:
        assert "a port that it wants is taken" in str(engine_error(error))
        assert isinstance(engine_error(error), UserError)
