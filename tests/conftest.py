"""Shared by the tests: the default parameters with overrides, and tiny models with every shape that matters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from xdist.scheduler import LoadFileScheduling

from rlvr.chat import TAGS
from rlvr.config import Config, read_yaml
from rlvr.model import scratch
from rlvr.model.policy import Policy, has_weights
from rlvr.model.resolved import ResolvedTraining
from rlvr.sampler import NativeSampler, Sampling
from rlvr.stages.resolve import resolve_training
from rlvr.types import Completion, Group, Problem, Prompt
from rlvr.verifiers.verify import Verify, open_verifier
from support.loading import load, save_scratch, trained_as
from support.random_weights import randomize

pytest_plugins = ["support.left_out"]

FLOW = "tests/flow/"
PARAMS = Path(__file__).parent.parent / "params.yaml"
# grouped queries: two query heads for each key and value head
SHAPE = {"hidden_size": 128, "layers": 2, "heads": 4, "kv_heads": 2, "intermediate_size": 160}

TOY: dict[str, Any] = {
    "model.scratch": {
        "architecture": "llama",
        "hidden_size": 32,
        "layers": 1,
        "heads": 1,
        "kv_heads": 1,
        "intermediate_size": 64,
    },
    "rollout.max_completion_tokens": 10,
    "rewards": {"format_approximate": {"weight": 1.0, "options": {"present": 0.5, "absent": -1.0}}},
    "grpo.steps": 6,
    "grpo.prompts_per_step": 4,
    "grpo.completions_per_prompt": 4,
    "grpo.learning_rate": 3e-3,
    "grpo.warmup_steps": 2,
    "grpo.schedule": "constant",
    "grpo.checkpoint_every": 100,
    "memory.tokens_per_micro_batch": 100,
}

torch.set_num_threads(1)
settings.register_profile("default", deadline=None, derandomize=True)
settings.load_profile("default")


class ByFile(LoadFileScheduling):  # type: ignore[misc]
    """A file goes to one process, and tests/flow as a whole, whose first runs take minutes."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return FLOW if file.startswith(FLOW) else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile | None:
    return ByFile(config, log) if config.getoption("dist") == "loadgroup" else None


@pytest.fixture(scope="session")
def make_params() -> Callable[..., dict[str, Any]]:
    """params.yaml as a mapping, with values replaced: make_params({"grpo.steps": 3})."""
    default = read_yaml(PARAMS)

    def make(changes: dict[str, Any] | None = None) -> dict[str, Any]:
        params: dict[str, Any] = deepcopy(default)
        for key, value in (changes or {}).items():
            *sections, name = key.split(".")
            place = params
            for section in sections:
                place = place[section]
            place[name] = value
        return params

    return make


@pytest.fixture(scope="session")
def make_config(make_params: Callable[..., dict[str, Any]]) -> Callable[..., Config]:
    return lambda changes=None: Config.model_validate(make_params(changes))


@pytest.fixture(scope="session")
def verify(make_config: Callable[..., Config]) -> Iterator[Verify]:
    """The verifier of params.yaml."""
    with open_verifier(make_config().verifiers) as verdicts:
        yield verdicts


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    tags = TAGS["working_out"]
    return scratch.make_tokenizer([f"What is 12+34?{''.join(tags.marks())}"], tags)


@pytest.fixture(scope="session")
def base(
    make_config: Callable[..., Config], tokenizer: Any, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """The folder of a tiny model: weights far from their small initial values, so that every part has an effect."""

    def make(architecture: str) -> Path:
        folder = tmp_path_factory.getbasetemp() / f"base-{architecture}"
        if not folder.exists():
            shape = {f"model.scratch.{key}": value for key, value in SHAPE.items()}
            cfg = make_config(shape | {"model.scratch.architecture": architecture})
            save_scratch(cfg, tokenizer, folder)
            model = AutoModelForCausalLM.from_pretrained(folder)
            randomize(model)
            model.save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def make_policy(make_config: Callable[..., Config], base: Callable[[str], Path]) -> Callable[..., Policy]:
    """A policy under training; with an adapter, one that has an effect."""

    def make(architecture: str = "llama", *, adapter: str = "none", dtype: torch.dtype = torch.float64) -> Policy:
        folder = base(architecture)
        cfg = make_config({"model.adapter": adapter, "model.lora.rank": 4})
        policy = load(cfg, folder)
        if adapter == "lora":
            randomize(policy.model)
        convert(policy.model, dtype)
        return policy

    return make


@dataclass(frozen=True)
class Toy:
    """What a driver needs for a run of milliseconds a step."""

    cfg: Config
    resolved: ResolvedTraining
    policy: Policy
    sampler: NativeSampler
    base: Path


@pytest.fixture(scope="session")
def make_toy(
    make_config: Callable[..., Config], tokenizer: Any, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Toy]:
    """A model of one layer with fresh weights, and rewards that it meets by chance: each tag written once."""
    toys = tmp_path_factory.mktemp("toy")

    def make(changes: dict[str, Any] | None = None, *, start: Path | None = None) -> Toy:
        cfg = make_config(TOY | (changes or {}))
        folder = toys / str(cfg.model.scratch.hidden_size)
        if not has_weights(folder):
            save_scratch(cfg, tokenizer, folder)
        policy = load(cfg, folder, start=start)
        policy = trained_as(cfg, policy)
        limits = (cfg.rollout.temperature, cfg.rollout.max_completion_tokens, cfg.rollout.max_rows)
        return Toy(cfg, resolve_training(cfg), policy, NativeSampler(tokenizer, "", Sampling(*limits)), folder)

    return make


@pytest.fixture(scope="session")
def make_plain(base: Callable[[str], Path]) -> Callable[..., Any]:
    """The same weights in a transformers model that uses nothing of this package."""

    def make(architecture: str = "llama", *, dtype: torch.dtype = torch.float64) -> Any:
        model = AutoModelForCausalLM.from_pretrained(base(architecture), attn_implementation="sdpa")
        return convert(model, dtype).eval()

    return make


@pytest.fixture(scope="session")
def make_prompts() -> Callable[..., list[Prompt]]:
    """Prompts of these numbers of tokens, each other than the rest."""

    def make(*lengths: int) -> list[Prompt]:
        generator = torch.Generator().manual_seed(sum(lengths))
        return [
            Prompt(
                Problem(f"p{i}", f"question {i}", str(i), "", 1),
                tuple(torch.randint(6, 30, (length,), generator=generator).tolist()),
            )
            for i, length in enumerate(lengths)
        ]

    return make


@pytest.fixture(scope="session")
def make_groups(make_prompts: Callable[..., list[Prompt]]) -> Callable[..., list[Group]]:
    """Groups of random completions of these lengths: make_groups([(prompt length, [completion lengths]), ...])."""

    def make(shapes: list[tuple[int, list[int]]]) -> list[Group]:
        generator = torch.Generator().manual_seed(7)
        prompts = make_prompts(*(length for length, _ in shapes))
        return [
            Group(
                prompt,
                tuple(
                    Completion(
                        token_ids=torch.randint(6, 30, (n,), generator=generator),
                        logp=-3 * torch.rand(n, generator=generator),
                        text="",
                        is_truncated=n == max(max(lengths) for _, lengths in shapes),
                    )
                    for n in lengths
                ),
            )
            for prompt, (_, lengths) in zip(prompts, shapes, strict=True)
        ]

    return make


class ExactNorm(nn.Module):
    """RMSNorm in the precision of its input: the one of transformers rounds to float32, also in float64 models."""

    weight: Tensor
    variance_epsilon: float

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x * (x.square().mean(-1, keepdim=True) + self.variance_epsilon).rsqrt()


def convert(model: Any, dtype: torch.dtype) -> Any:
    if dtype == torch.float64:
        for module in model.modules():
            if type(module).__name__.endswith("RMSNorm"):
                module.__class__ = ExactNorm
    return model.to(dtype)
