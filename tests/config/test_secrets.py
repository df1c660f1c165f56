"""A key in params.yaml is refused by name, and shown nowhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rlvr.config import check_config
from rlvr.config.secrets import secrets_in
from rlvr.types import UserError
from support.smoke import ROOT, smoke_params

PLANTED = "sk-proj-4f9Qx71TzPlantedKey0123456789"


@pytest.mark.parametrize(
    "value",
    [
        PLANTED,
        f"Bearer {PLANTED}",
        "hf_AbCdEfGhIjKlMnOpQrStUvWxYz",
        "sk-0123456789abcdef0123456789abcdef",
        "gsk_AbCdEfGhIjKlMnOp0123",
        "sk_live_AbCdEfGhIj0123",
        "ghp_0123456789abcdefghijABCDEFGHIJ",
        "github_pat_11ABCDEFG0123456789_abc",
        "AKIAIOSFODNN7EXAMPLE",
        "AIzaSyA-1234567890abcdefghijklmnopq",
        "xoxb-123456789012-abcdefghij",
        "-----BEGIN RSA PRIVATE KEY-----",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abc",
        "https://me:secret@judge.example.org/v1",
        "https://abcdef0123456789@judge.example.org/v1",
        "https://judge.example.org/v1?api_key=abc",
    ],
)
def test_what_looks_like_a_key(value: str) -> None:
    assert list(secrets_in({"rewards": {"mine": {"options": {"words": ["a", value]}}}})) == [
        "rewards.mine.options.words[1]"
    ]


@pytest.mark.parametrize("name", ["api_key", "apikey", "OPENAI_API_KEY", "password", "client_secret", "access_token"])
def test_what_is_named_as_one(name: str) -> None:
    assert list(secrets_in({"options": {name: "plain words"}})) == [f"options.{name}"]
    assert list(secrets_in({"options": {name: ""}})) == []


@pytest.mark.parametrize("value", [PLANTED, "abcdef0123", "my key", "lower_case"])
def test_a_key_in_the_place_of_its_variable(value: str) -> None:
    assert list(secrets_in({"api_key_env": value})) == ["api_key_env"]


@pytest.mark.parametrize("value", ["", "OPENAI_API_KEY", "_KEY2"])
def test_the_name_of_a_variable(value: str) -> None:
    assert list(secrets_in({"api_key_env": value})) == []


@pytest.mark.parametrize(
    "value",
    [
        "https://api.example.org/v1",
        "http://localhost:8000/v1",
        "mail me@example.org",
        "risk-averse answers are asked for, step by step",
        "data/raw/skateboarding-questions-2026.csv",
        "data/raw/rk4-integration-problems-2026.csv",
        "sk-learn-style-questions-in-a-table",
        "data/raw/ask-me-anything-2026-questions.csv",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "a1b2c3d4e5f60718293a4b5c6d7e8f9001122334",
        "</s>",
    ],
)
def test_what_is_no_secret(value: str) -> None:
    assert list(secrets_in({"source": value, "max_tokens": value, "end_token": value})) == []


def test_the_message_names_the_place_and_not_the_value(tmp_path: Path) -> None:
    text = smoke_params().replace("options: {points: 3.0}", f"options: {{points: 3.0, judge_key: {PLANTED}}}", 1)
    assert PLANTED in text
    with pytest.raises(UserError, match=r"rewards\.\w+\.options\.judge_key: it looks like a key") as caught:
        check_config(text, "params.yaml")
    assert PLANTED not in str(caught.value)
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    for command in ("check", "prepare", "runs", "plan"):
        done = subprocess.run(
            [sys.executable, "-m", "rlvr", command],
            cwd=tmp_path,
            env={"PYTHONPATH": str(ROOT / "src"), "PATH": "/usr/bin:/bin"},
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
        assert PLANTED not in done.stdout + done.stderr
        assert done.returncode == 1 or command == "plan"
