"""The loop: it improves a toy, gives the same bits twice, and resumes after a stop as if there had been none."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, get_args

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM

from rlvr import grpo
from rlvr.batch import pack
from rlvr.chat import tags_of
from rlvr.config import Config
from rlvr.model.policy import Policy
from rlvr.rewards import FUNCTIONS, open_scorer
from rlvr.rewards.sample import Sample
from rlvr.runtime.meter import Meter
from rlvr.stages.resolve import resolve_training
from rlvr.training.optim import LossScale
from rlvr.training.run import Run
from rlvr.types import AdvantageMethod, Group, Interrupted, LossType, Prompt, UserError
from support.precision import assert_same_bits, bit_difference
from support.runs import records, stopping_after

CPU = torch.device("cpu")
PROMPTS = tuple(3 + i % 4 for i in range(10))


class Killed(BaseException):
    pass


class KilledIn:
    """A sampler that dies in the middle of a step."""

    def __init__(self, sampler: Any, *, step: int) -> None:
        self.sampler, self.step = sampler, step
        self.resume, self.release = sampler.resume, sampler.release

    def sync(self, policy: Policy) -> None:
        self.sampler.sync(policy)

    def sample(self, prompts: Sequence[Prompt], count: int, *, seed: tuple[int, ...]) -> Iterator[Group]:
        if seed[1] == self.step:
            raise Killed
        yield from self.sampler.sample(prompts, count, seed=seed)


@pytest.fixture
def prompts(make_prompts: Callable[..., list[Prompt]]) -> list[Prompt]:
    return make_prompts(*PROMPTS)


def train(
    toy: Any,
    prompts: Sequence[Prompt],
    folder: Path,
    *,
    sampler: Any = None,
    stop_after: int = 1_000,
    show: Callable[..., None] = lambda done, **values: None,
) -> Any:
    """Start or resume a run in `folder`, up to `stop_after` more steps; the toy with its policy trained."""
    folder.mkdir(exist_ok=True)
    with open_scorer(toy.cfg.rewards, toy.cfg.verifiers, tags_of(toy.cfg.model.template)) as scorer:
        grpo.train(
            toy.cfg,
            toy.resolved,
            toy.policy,
            sampler or toy.sampler,
            scorer,
            prompts,
            run=Run(folder),
            meter=Meter(CPU),
            show=show,
            stop=stopping_after(stop_after),
        )
    return toy


def weights(toy: Any) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in toy.policy.trainable().items()}


def records_and_weights(toy: Any, folder: Path) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    return records(folder), weights(toy)


WIDE = {
    "architecture": "llama",
    "hidden_size": 64,
    "layers": 1,
    "heads": 2,
    "kv_heads": 1,
    "intermediate_size": 64,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "falling rate": {"grpo.schedule": "linear"},
    "rate that falls by a cosine": {"grpo.schedule": "cosine"},
    "two minibatches, two passes": {"grpo.minibatches_per_rollout": 2, "grpo.passes_per_rollout": 2},
    "with a reference": {"grpo.beta": 0.05},
    "correction and bonus": {"grpo.importance_correction": "token_truncate", "grpo.entropy_bonus": 0.01},
    "adapter with a reference": {"model.adapter": "lora", "model.lora.rank": 4, "grpo.beta": 0.05},
    "gspo with a reference": {
        "grpo.loss_type": "gspo",
        "grpo.epsilon": 3e-4,
        "grpo.epsilon_high": 4e-4,
        "grpo.beta": 0.05,
    },
    "recomputed in tiles, on the host": {"memory.tile_rows": 7, "memory.offload": "on", "grpo.beta": 0.05},
    "attention kept": {"memory.tile_rows": 7, "memory.keep_attention": "on"},
    "adapter in tiles": {"model.adapter": "lora", "model.lora.rank": 4, "memory.tile_rows": 7},
    "prompts computed once": {
        "memory.share_prompts": "on",
        "memory.tokens_per_micro_batch": 74,
        "grpo.completions_per_prompt": 12,
        "memory.tile_rows": 7,
        "grpo.beta": 0.05,
        "grpo.minibatches_per_rollout": 2,
    },
    "the head in chunks": {"memory.logit_chunk_rows": 5, "memory.kernels": "torch"},
    "each reward for itself": {"grpo.advantage": "normalize_then_sum"},
    "minus the others' mean": {"grpo.advantage": "rloo"},
    "with other prompts for those without signal": {"grpo.dynamic_sampling": 2, "grpo.completions_per_prompt": 2},
    "8-bit states on the host": {
        "model.scratch": WIDE,
        "model.adapter": "lora",
        "model.lora.rank": 64,
        "memory.optimizer": "adamw_8bit",
        "memory.optimizer_on_host": "on",
    },
    "float16 under an adapter": {"model.adapter": "lora", "model.lora.rank": 4, "compute.dtype": "float16"},
    "cispo, batch scale, truncated masked": {
        "grpo.loss_type": "cispo",
        "grpo.epsilon_high": 2.0,
        "grpo.scale_rewards": "batch",
        "grpo.mask_truncated_completions": True,
    },
}
every_variant = pytest.mark.parametrize("variant", VARIANTS)


def sevens(sample: Sample) -> float:
    """A reward that a policy can raise to the length limit, 10."""
    return float(sample.completion.text.count("7"))


@pytest.mark.parametrize("loss_type", get_args(LossType))
def test_the_reward_rises(
    loss_type: str,
    make_toy: Callable[..., Any],
    prompts: list[Prompt],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(FUNCTIONS, "sevens", sevens)
    changes = {
        "rewards": {"sevens": {"weight": 1.0, "options": {}}},
        "grpo.steps": 30,
        "grpo.learning_rate": 1e-2,
        "grpo.completions_per_prompt": 8,
        "grpo.loss_type": loss_type,
        "grpo.epsilon_high": 5.0 if loss_type == "cispo" else 0.28,
        "memory.tokens_per_micro_batch": 1000,
    }
    train(make_toy(changes), prompts, tmp_path)
    rewards = [record["reward/mean"] for record in records(tmp_path)]
    assert len(rewards) == 30
    assert rewards[0] < 1
    assert sum(rewards[-5:]) / 5 > 7


def test_the_same_seed_gives_the_same_weights_and_the_same_log(
    make_toy: Callable[..., Any], prompts: list[Prompt], tmp_path: Path
) -> None:
    first, again = (train(make_toy(), prompts, tmp_path / name) for name in ("a", "b"))
    assert_same_bits(weights(first), weights(again))
    assert records(tmp_path / "a") == records(tmp_path / "b")


@pytest.mark.parametrize(
    "changes",
    [
        {"memory.tile_rows": 7},
        {"memory.tile_rows": 7, "memory.offload": "on"},
        {"memory.logit_chunk_rows": 3},
        {"memory.share_prompts": "on"},
    ],
    ids=str,
)
@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_what_saves_memory_changes_nothing_but_rounding(
    adapter: str, changes: dict[str, Any], make_toy: Callable[..., Any], prompts: list[Prompt], tmp_path: Path
) -> None:
    base = {"model.adapter": adapter, "model.lora.rank": 4, "grpo.steps": 2}
    plain, saving = (
        records_and_weights(train(make_toy(base | more), prompts, tmp_path / name), tmp_path / name)
        for name, more in (("plain", {}), ("saving", changes))
    )
    assert [line["reward/mean"] for line in plain[0]] == [line["reward/mean"] for line in saving[0]]
    for name, weight in plain[1].items():
        torch.testing.assert_close(saving[1][name], weight, rtol=1e-3, atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_four_bit_weights_under_an_adapter(
    make_toy: Callable[..., Any], prompts: list[Prompt], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("bitsandbytes")
    monkeypatch.setitem(FUNCTIONS, "sevens", sevens)
    changes = {
        "model.scratch": WIDE,
        "model.adapter": "lora",
        "model.quantization": "nf4",
        "model.lora.rank": 16,
        "rewards": {"sevens": {"weight": 1.0}},
        "grpo.steps": 30,
        "grpo.learning_rate": 1e-2,
        "grpo.completions_per_prompt": 8,
        "memory.tokens_per_micro_batch": 1000,
    }
    toy = train(make_toy(changes), prompts, tmp_path / "a")
    means = [record["reward/mean"] for record in records(tmp_path / "a")]
    assert sum(means[-20:]) / 20 > 1.5 * sum(means[:5]) / 5  # the embedding is frozen: there is no more to win
    assert all("lora" in name for name in toy.policy.trainable())
    assert any(type(module).__name__ == "Linear4bit" for module in toy.policy.model.modules())
    assert_same_bits(weights(toy), weights(train(make_toy(changes), prompts, tmp_path / "b")))


class TestFloat16:
    CHANGES: ClassVar[dict[str, Any]] = {"model.adapter": "lora", "model.scratch": WIDE, "grpo.warmup_steps": 4}

    def test_a_step_is_nearly_that_of_float32(
        self, make_toy: Callable[..., Any], prompts: list[Prompt], tmp_path: Path
    ) -> None:
        logs = []
        for dtype in ("float32", "float16"):
            changes = self.CHANGES | {"compute.dtype": dtype, "grpo.steps": 2}
            toy = train(make_toy(changes), prompts, tmp_path / dtype)
            assert {weight.dtype for weight in toy.policy.trainable().values()} == {torch.float32}
            assert toy.policy.head.dtype == getattr(torch, dtype)
            logs.append(records(tmp_path / dtype)[0])
        assert logs[1]["grad_norm"] == pytest.approx(logs[0]["grad_norm"], rel=5e-3)
        assert [log["loss_scale"] for log in logs] == [None, 2.0**16]

    def test_steps_that_overflow_are_left_out_until_the_scale_is_small_enough(
        self, make_toy: Callable[..., Any], prompts: list[Prompt], tmp_path: Path
    ) -> None:
        toy = make_toy(self.CHANGES | {"compute.dtype": "float16", "grpo.passes_per_rollout": 1})
        optimizer = grpo.make_optimizer(toy.cfg, toy.resolved, toy.policy, 6)
        optimizer.loss_scale = LossScale(2.0**24)
        tmp_path.joinpath("run").mkdir()
        Run(tmp_path / "run").save(0, toy.policy, optimizer, {})
        before = weights(toy)
        train(toy, prompts, tmp_path / "run")
        log = records(tmp_path / "run")
        skipped = 0
        for step, line in enumerate(log):
            assert line["learning_rate"] == pytest.approx(3e-3 * min(1.0, (step - skipped + 1) / 4))
            skipped += line["grad_norm"] is None
            assert line["skipped_optimizer_steps"] == skipped and line["loss_scale"] == 2.0 ** (24 - skipped)
        assert log[0]["grad_norm"] is None and 0 < skipped < 6
        assert bit_difference(weights(toy), before)


def test_another_seed_gives_other_weights(make_toy: Callable[..., Any], prompts: list[Prompt], tmp_path: Path) -> None:
    first, other = (train(make_toy({"compute.seed": seed}), prompts, tmp_path / str(seed)) for seed in (0, 1))
    assert bit_difference(weights(first), weights(other))


@every_variant
def test_stopped_and_resumed_is_bit_identical(
    variant: str, make_toy: Callable[..., Any], prompts: list[Prompt], tmp_path: Path
) -> None:
    whole = train(make_toy(VARIANTS[variant]), prompts, tmp_path / "whole")
    with pytest.raises(Interrupted, match="stopped after step 2 of 6"):
        train(make_toy(VARIANTS[variant]), prompts, tmp_path / "parts", stop_after=2)
    with pytest.raises(Interrupted, match="stopped after step 5 of 6"):
        train(make_toy(VARIANTS[variant]), prompts, tmp_path / "parts", stop_after=3)
    parts = train(make_toy(VARIANTS[variant]), prompts, tmp_path / "parts")
    assert_same_bits(weights(whole), weights(parts))
    assert bit_difference(weights(whole), weights(make_toy(VARIANTS[variant])))
    assert records(tmp_path / "whole") == records(tmp_path / "parts")
    resampled = sum(record["groups/resampled"] for record in records(tmp_path / "parts"))
    assert (resampled > 0) == ("grpo.dynamic_sampling" in VARIANTS[variant])


def test_killed_between_checkpoints_and_resumed_is_bit_identical(
    make_toy: Callable[..., Any], prompts: list[Prompt], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = {"grpo.checkpoint_every": 2, "grpo.log_completions_every": 1}
    whole = train(make_toy(changes), prompts, tmp_path / "whole")
    toy = make_toy(changes)
    with pytest.raises(Killed):
        train(toy, prompts, tmp_path / "parts", sampler=KilledIn(toy.sampler, step=5))
    assert [record["step"] for record in records(tmp_path / "parts")] == [0, 1, 2, 3, 4]
    parts = train(make_toy(changes), prompts, tmp_path / "parts")
    assert_same_bits(weights(whole), weights(parts))
    assert records(tmp_path / "whole") == records(tmp_path / "parts")
    tables = [sorted(path.name for path in (tmp_path / name / "completions").iterdir()) for name in ("whole", "parts")]
    assert tables[0] == tables[1] == [f"{step:08d}.parquet" for step in range(6)]
    for name in tables[0]:
        one, two = ((tmp_path / folder / "completions" / name).read_bytes() for folder in ("whole", "parts"))
        assert one == two
    assert "warning" not in capsys.readouterr().out


def test_tables_of_completions_that_are_damaged_or_missing_are_told_at_each_resume(
    make_toy: Callable[..., Any], prompts: list[Prompt], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes, tables = {"grpo.log_completions_every": 1}, tmp_path / "parts/completions"
    whole = train(make_toy(changes), prompts, tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(make_toy(changes), prompts, tmp_path / "parts", stop_after=3)
    flipped = bytearray((tables / "00000000.parquet").read_bytes())
    flipped[5] ^= 1
    (tables / "00000000.parquet").write_bytes(flipped)
    (tables / "00000002.parquet").unlink()
    with pytest.raises(Interrupted):
        train(make_toy(changes), prompts, tmp_path / "parts", stop_after=1)
    said = capsys.readouterr().out
    assert "00000000.parquet is damaged" in said and "00000002.parquet is missing" in said
    parts = train(make_toy(changes), prompts, tmp_path / "parts")
    said = capsys.readouterr().out
    assert "00000000.parquet is missing" in said and "00000002.parquet is missing" in said
    assert_same_bits(weights(whole), weights(parts))
    assert sorted(path.stem for path in tables.iterdir()) == [f"{step:08d}" for step in (1, 3, 4, 5)]


def test_a_finished_run_is_not_trained_further(
    make_toy: Callable[..., Any], prompts: list[Prompt], tmp_path: Path
) -> None:
    changes = {"grpo.checkpoint_every": 3}
    first = weights(train(make_toy(changes), prompts, tmp_path))
    assert_same_bits(first, weights(train(make_toy(changes), prompts, tmp_path)))


class TestReference:
    def test_the_divergence_starts_at_zero_and_grows(
        self, make_toy: Callable[..., Any], prompts: list[Prompt], tmp_path: Path
    ) -> None:
        train(make_toy({"grpo.beta": 1e-3, "grpo.passes_per_rollout": 1}), prompts, tmp_path)
        divergence = [record["policy/kl"] for record in records(tmp_path)]
        assert divergence[0] == pytest.approx(0.0, abs=1e-9)
        assert min(divergence[1:]) > 1e-6 and divergence[-1] > 10 * divergence[1]

    def test_it_is_the_adapter_as_grpo_starts_not_the_base(
        self, make_toy: Callable[..., Any], prompts: list[Prompt], tmp_path: Path
    ) -> None:
        changes = {"model.adapter": "lora", "model.lora.rank": 4, "grpo.beta": 1e-3, "grpo.passes_per_rollout": 1}
        before = make_toy(changes)
        with torch.no_grad():
            for weight in before.policy.trainable().values():
                weight.add_(0.2)
        before.policy.save(tmp_path / "sft")
        train(make_toy(changes, start=tmp_path / "sft"), prompts, tmp_path / "grpo")
        assert records(tmp_path / "grpo")[0]["policy/kl"] == pytest.approx(0.0, abs=1e-9)

    @pytest.mark.parametrize("pull", ["grpo.beta", "grpo.entropy_bonus"])
    def test_groups_without_signal_are_pulled_too(
        self, pull: str, make_toy: Callable[..., Any], prompts: list[Prompt], tmp_path: Path
    ) -> None:
        rewards = {"format_exact": {"weight": 1.0, "options": {"points": 3.0}}}
        train(make_toy({"rewards": rewards, pull: 0.1}), prompts, tmp_path)
        for record in records(tmp_path):
            assert (record["advantage/zero_std_groups"], record["groups/skipped"]) == (4, 0)
            assert record["policy/kl"] is not None

    def test_a_strong_pull_keeps_the_policy_near(
        self, make_toy: Callable[..., Any], prompts: list[Prompt], tmp_path: Path
    ) -> None:
        last = {}
        for beta in (1e-4, 3.0):
            train(make_toy({"grpo.beta": beta, "grpo.steps": 20}), prompts, tmp_path / str(beta))
            last[beta] = records(tmp_path / str(beta))[-1]["policy/kl"]
        assert last[3.0] < 0.2 * last[1e-4]


def test_dynamic_sampling_fills_the_step(
    make_toy: Callable[..., Any], prompts: list[Prompt], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reward that only texts of some problems can get: the others are replaced while there are any."""
    monkeypatch.setitem(FUNCTIONS, "choosy", choosy)
    found = {}
    for rounds in (0, 3):
        changes = {"rewards": {"choosy": {"weight": 1.0, "options": {}}}, "grpo.dynamic_sampling": rounds}
        train(make_toy(changes), prompts, tmp_path / str(rounds))
        found[rounds] = records(tmp_path / str(rounds))
    empty = {n: [record["advantage/zero_std_groups"] for record in lines] for n, lines in found.items()}
    assert all(record["groups/resampled"] == 0 for record in found[0])
    assert sum(record["groups/resampled"] for record in found[3]) > 0
    assert sum(empty[3]) < sum(empty[0])
    first = found[3][0]
    assert first["groups/resampled"] == empty[0][0] - empty[3][0]  # the first step samples from the same weights


def test_an_entropy_bonus_keeps_the_policy_uncertain(
    make_toy: Callable[..., Any], prompts: list[Prompt], tmp_path: Path
) -> None:
    """Fresh weights are nearly uniform; rewards make them surer, unless the bonus outweighs them."""
    last = {}
    for bonus in (0.0, 10.0):
        train(make_toy({"grpo.entropy_bonus": bonus, "grpo.steps": 20}), prompts, tmp_path / str(bonus))
        last[bonus] = records(tmp_path / str(bonus))[-1]["policy/entropy"]
    assert last[10.0] > last[0.0] + 0.1


def choosy(sample: Sample) -> float:
    return float(len(sample.completion.text)) if sample.problem.id in ("p0", "p3", "p5", "p6", "p8") else 0.0


def judge_down(sample: Sample, *, share: float) -> float | None:
    """A judge that does not apply to p1, and that is down for the first of the others' texts by length."""
    text = sample.completion.text
    return None if sample.problem.id == "p1" else float("nan") if len(text) < share else float(text.count("7"))


@pytest.mark.parametrize("share, all_down", [(4.0, False), (1e9, True)])
@pytest.mark.parametrize("method", get_args(AdvantageMethod))
def test_what_could_not_be_scored_is_not_trained_on_and_counted(
    method: str,
    share: float,
    all_down: bool,
    make_toy: Callable[..., Any],
    prompts: list[Prompt],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(FUNCTIONS, "judge_down", judge_down)
    rewards = {"judge_down": {"weight": 1.0, "options": {"share": share}}}
    toy = make_toy({"rewards": rewards, "grpo.advantage": method, "grpo.beta": 0.1, "grpo.max_unscorable": 1.0})
    train(toy, [prompt for prompt in prompts if not all_down or prompt.problem.id != "p1"], tmp_path)
    for record in records(tmp_path):
        assert (record["verifier/unscorable"] == 16) == all_down
        assert (record["reward/mean"] is None) == (record["policy/entropy"] is None) == all_down
        assert "NaN" not in json.dumps(record)
    assert all(not weight.isnan().any() for weight in weights(toy).values())


OWN = """
import time
from dataclasses import replace
from pathlib import Path

def sevens(completion):
    return float(completion.count("7"))

def sevens_unless_down(completions):
    if Path("down").exists():
        raise ConnectionError("the service is down")
    return [float(text.count("7")) for text in completions]

def raises(completions):
    raise RuntimeError("no such luck")

def hangs(completions):
    time.sleep(600)

def dies(completions):
    import os
    os._exit(3)

def nan(completions):
    return [float("nan")] * len(completions)

def text(completions):
    return ["good"] * len(completions)

def short(completions):
    return [1.0]
"""


class TestRewardsOfTheUser:
    @pytest.fixture
    def own(self, make_toy: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
        """A toy whose reward is a function of user/mine.py."""
        (tmp_path / "user").mkdir()
        (tmp_path / "user/mine.py").write_text(OWN)
        monkeypatch.chdir(tmp_path)

        def make(function: str, **changes: Any) -> Any:
            rewards = {"mine": {"python": f"user/mine.py:{function}", "weight": 1.0}}
            return make_toy({"rewards": rewards, "verifiers.function_seconds": 1.0} | changes)

        return make

    def test_it_trains_as_one_of_ours(
        self, own: Callable[..., Any], make_toy: Callable[..., Any], prompts: list[Prompt], tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        monkeypatch.setitem(FUNCTIONS, "sevens", sevens)
        ours = train(make_toy({"rewards": {"sevens": {"weight": 1.0}}}), prompts, tmp_path / "ours")
        assert_same_bits(weights(train(own("sevens"), prompts, tmp_path / "mine")), weights(ours))

    @pytest.mark.parametrize(
        "function, said",
        [
            ("raises", "user/mine.py:raises: RuntimeError: no such luck"),
            ("hangs", "timeout: over its limit of 1 s"),
            ("dies", "crash: the worker process ended with exit status 3"),
            ("nan", "nan"),
            ("text", "good"),
            ("short", "1"),
        ],
    )
    def test_when_it_fails_the_run_stops_after_a_checkpoint_and_says_why(
        self, function: str, said: str, own: Callable[..., Any], prompts: list[Prompt], tmp_path: Path
    ) -> None:
        toy = own(function, **{"verifiers.workers": 4})
        before = weights(toy)
        with pytest.raises(UserError) as caught:
            train(toy, prompts, tmp_path / "run")
        assert "step 1: 16 of the 16 completions could not be scored" in str(caught.value)
        assert "rewards.mine: " in str(caught.value) and said in str(caught.value)
        assert_same_bits(weights(toy), before)
        assert (tmp_path / "run/step-00000000/weights.safetensors").is_file()

    def test_below_the_threshold_the_run_goes_on(
        self, own: Callable[..., Any], prompts: list[Prompt], tmp_path: Path
    ) -> None:
        toy = own("raises", **{"grpo.max_unscorable": 1.0})
        before = weights(toy)
        train(toy, prompts, tmp_path / "run")
        assert [record["verifier/unscorable"] for record in records(tmp_path / "run")] == [16] * 6
        assert_same_bits(weights(toy), before)

    def test_once_it_is_mended_the_run_goes_on_as_if_nothing_had_been(
        self, own: Callable[..., Any], prompts: list[Prompt], tmp_path: Path
    ) -> None:
        whole = train(own("sevens_unless_down"), prompts, tmp_path / "whole")
        down = tmp_path / "down"

        def breaks(done: int, **values: Any) -> None:
            if done == 3:
                down.touch()

        with pytest.raises(UserError, match="step 4: 16 of the 16 completions could not be scored") as caught:
            train(own("sevens_unless_down"), prompts, tmp_path / "parts", show=breaks)
        assert "ConnectionError: the service is down" in str(caught.value)
        down.unlink()
        parts = train(own("sevens_unless_down"), prompts, tmp_path / "parts")
        assert_same_bits(weights(whole), weights(parts))
        assert records(tmp_path / "whole") == records(tmp_path / "parts")


def test_without_signal_nothing_is_computed_and_nothing_moves(
    make_toy: Callable[..., Any], prompts: list[Prompt], tmp_path: Path
) -> None:
    toy = make_toy({"rewards": {"format_exact": {"weight": 1.0, "options": {"points": 3.0}}}})
    before = weights(toy)
    train(toy, prompts, tmp_path)
    assert_same_bits(weights(toy), before)
    for record in records(tmp_path):
        assert record["groups/skipped"] == record["advantage/zero_std_groups"] == 4
        assert record["loss"] == record["grad_norm"] == 0.0
        assert record["policy/entropy"] is None  # nothing was computed that it could be taken from


def test_each_minibatch_of_each_pass_is_an_optimizer_step(
    make_toy: Callable[..., Any], prompts: list[Prompt], tmp_path: Path
) -> None:
    """With two of each, a rollout takes four steps of the warm-up."""
    changes = {**VARIANTS["two minibatches, two passes"], "grpo.warmup_steps": 10, "grpo.learning_rate": 1e-3}
    train(make_toy(changes), prompts, tmp_path)
    assert [record["learning_rate"] for record in records(tmp_path)] == pytest.approx(
        [1e-4, 5e-4, 9e-4, 1e-3, 1e-3, 1e-3]
    )


def test_a_falling_rate_reaches_zero_after_the_last_optimizer_step(
    make_toy: Callable[..., Any], prompts: list[Prompt], tmp_path: Path
) -> None:
    """Six rollouts of four steps: up in 4, then down by 1/20 a step; each line has the rate of its first step."""
    changes = {**VARIANTS["two minibatches, two passes"], "grpo.warmup_steps": 4, "grpo.learning_rate": 1e-3}
    train(make_toy(changes | {"grpo.schedule": "linear"}), prompts, tmp_path)
    rates = [record["learning_rate"] for record in records(tmp_path)]
    assert rates == pytest.approx([0.25e-3, 1e-3, 0.8e-3, 0.6e-3, 0.4e-3, 0.2e-3])


def test_completions_are_kept_now_and_then_and_at_the_end(
    make_toy: Callable[..., Any], prompts: list[Prompt], tmp_path: Path
) -> None:
    train(make_toy({"grpo.log_completions_every": 2}), prompts, tmp_path)
    names = sorted(path.stem for path in (tmp_path / "completions").iterdir())
    assert [int(name) for name in names] == [0, 2, 4, 5]


def plain_logp(model: Any, group: Group, ids: Tensor) -> Tensor:
    tokens = torch.tensor([*group.prompt.tokens, *ids.tolist()])
    logp_SV: Tensor = model(input_ids=tokens[None]).logits[0].log_softmax(-1)
    return logp_SV[len(group.prompt.tokens) - 1 : -1].gather(1, ids[:, None])[:, 0]


@pytest.mark.parametrize("parts", [[(0, 1, 2, 3)], [(0, 1), (2, 3)]], ids=["one minibatch", "two minibatches"])
def test_an_update_is_the_textbook_loop(
    parts: list[tuple[int, ...]],
    make_config: Callable[..., Config],
    make_policy: Callable[..., Policy],
    make_plain: Callable[..., Any],
    make_groups: Callable[..., list[Group]],
) -> None:
    """Two passes, against a loop written out with a plain model and torch's own parts."""
    groups = make_groups([(5, [4, 9, 6]), (2, [3, 8, 5]), (7, [7, 1, 2]), (3, [5, 5, 6])])
    advantage_PG = torch.tensor([[1.0, -0.5, -0.5], [0.25, 0.5, -0.75], [-1.0, 0.0, 1.0], [0.5, 0.5, -1.0]])
    cfg = make_config(
        {
            "grpo.minibatches_per_rollout": len(parts),
            "grpo.passes_per_rollout": 2,
            "rollout.max_logp_gap": None,  # these completions were not sampled from the policy
            "grpo.learning_rate": 3e-3,
            "grpo.warmup_steps": 0,
            "grpo.schedule": "constant",
            "grpo.max_grad_norm": 0.1,
            "memory.tokens_per_micro_batch": 112,
        }
    )
    policy, resolved = make_policy(), resolve_training(cfg)
    scorable_PG = torch.ones(4, 3, dtype=torch.bool)
    minibatches = pack(groups, advantage_PG, scorable_PG, [True] * 4, minibatches=len(parts), mask_truncated=False)
    losses, _, grad_norm = grpo.update(
        cfg, resolved, policy, None, grpo.make_optimizer(cfg, resolved, policy, 1), minibatches, Meter(CPU)
    )

    plain = make_plain()
    adamw = torch.optim.AdamW(plain.parameters(), lr=3e-3, betas=(0.9, 0.999), weight_decay=0.0)
    with torch.no_grad():
        old = [[plain_logp(plain, group, c.token_ids) for c in group.completions] for group in groups]
    expected_losses, clipped = [], 0
    for _ in range(2):
        for part in parts:
            loss = torch.zeros((), dtype=torch.float64)
            for p in part:
                for g, completion in enumerate(groups[p].completions):
                    ratio = (plain_logp(plain, groups[p], completion.token_ids) - old[p][g]).exp()
                    a = advantage_PG[p, g].double()
                    bounded = ratio.clamp(0.8, 1.28)
                    clipped += int((bounded != ratio).sum())
                    loss = loss - torch.minimum(ratio * a, bounded * a).sum() / (3 * len(part) * 48)
            torch.autograd.backward(loss)
            expected_norm = torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.1)
            adamw.step()
            adamw.zero_grad()
            expected_losses.append(loss.item())
    assert clipped > 0 and expected_norm > 0.1
    assert losses == pytest.approx(expected_losses, abs=1e-7)  # the loop adds the shares up in float32
    assert grad_norm == pytest.approx(expected_norm.item(), rel=1e-9)
    for found, expected in zip(policy.model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def test_a_saved_adapter_loads_with_peft_and_gives_the_same_logits(
    make_toy: Callable[..., Any], prompts: list[Prompt], tmp_path: Path
) -> None:
    toy = train(make_toy({"model.adapter": "lora", "model.lora.rank": 4}), prompts, tmp_path / "run")
    toy.policy.save(tmp_path / "adapter")
    plain = AutoModelForCausalLM.from_pretrained(toy.base, attn_implementation="sdpa")
    tokens = torch.tensor([prompts[3].tokens])
    with torch.no_grad():
        untrained = plain(tokens).logits
        loaded = PeftModel.from_pretrained(plain, tmp_path / "adapter")(tokens).logits
        toy.policy.base.config._attn_implementation = "sdpa"
        torch.testing.assert_close(toy.policy.model(tokens).logits, loaded, rtol=0, atol=1e-6)
    assert (loaded - untrained).abs().max() > 1e-3


class WithoutSync:
    """A sampler that keeps the weights of the first step: what an engine does whose adapter is not replaced."""

    def __init__(self, sampler: Any, policy: Policy) -> None:
        self.sampler = sampler
        sampler.sync(policy.frozen_copy())

    def sync(self, policy: Policy) -> None: ...

    def resume(self) -> None:
        self.sampler.resume()

    def release(self) -> None:
        self.sampler.release()

    def sample(self, prompts: Sequence[Prompt], count: int, *, seed: tuple[int, ...]) -> Iterator[Group]:
        yield from self.sampler.sample(prompts, count, seed=seed)


class TestMismatch:
    def test_a_temperature_that_is_off_by_a_tenth_stops_the_first_step(
        self, make_toy: Callable[..., Any], prompts: list[Prompt], tmp_path: Path
    ) -> None:
        toy = make_toy()
        before = weights(toy)
        toy.sampler.sampling = replace(toy.sampler.sampling, temperature=1.1)
        with pytest.raises(UserError, match=r"disagree.*nats.*rollout\.max_logp_gap allows"):
            train(toy, prompts, tmp_path / "run")
        assert_same_bits(weights(toy), before)
        assert (tmp_path / "run/step-00000000/weights.safetensors").is_file()

    def test_weights_that_the_sampler_did_not_get_stop_the_second_step(
        self, make_toy: Callable[..., Any], prompts: list[Prompt], tmp_path: Path
    ) -> None:
        toy = make_toy()
        with pytest.raises(UserError, match="disagree"):
            train(toy, prompts, tmp_path / "run", sampler=WithoutSync(toy.sampler, toy.policy))
        assert len(records(tmp_path / "run")) == 1

    def test_a_limit_of_ones_own_is_the_limit(
        self, make_toy: Callable[..., Any], prompts: list[Prompt], tmp_path: Path
    ) -> None:
        for i, (limit, passes) in enumerate([(None, True), (0.5, True), (1e-9, False)]):
            toy = make_toy({"rollout.max_logp_gap": limit, "grpo.steps": 2})
            toy.sampler.sampling = replace(toy.sampler.sampling, temperature=1.01)
            if passes:
                train(toy, prompts, tmp_path / str(i))
            else:
                with pytest.raises(UserError, match="1e-09"):
                    train(toy, prompts, tmp_path / str(i))
