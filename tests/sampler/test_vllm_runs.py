"""Training with a vLLM engine in the process: bits, resumed runs, and the stages from the data to the report."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from rlvr import grpo
from rlvr.chat import tags_of
from rlvr.config import Config
from rlvr.model.source import Source
from rlvr.plan.cards import GIB, card_of_size
from rlvr.plan.planner import Plan, plan
from rlvr.plan.settings import PlanSettings
from rlvr.plan.shapes import all_shapes, find_shape
from rlvr.rewards import open_scorer
from rlvr.runtime.meter import Meter
from rlvr.sampler import EngineSettings, Sampler, Sampling, VllmSampler, start_engine
from rlvr.stages.opening import check_sampler, engine_settings
from rlvr.stages.resolve import resolve
from rlvr.training.run import Run
from rlvr.types import Interrupted, Prompt, UserError
from support.precision import assert_same_bits
from support.runs import records, stopping_after
from support.smoke import smoke_params

CPU = torch.device("cpu")
EXACT = 5e-5  # nats a token, in float32
STEPS = 4


@pytest.fixture(scope="module")
def toy_sampler(make_toy: Callable[..., Any], tokenizer: Any) -> Iterator[VllmSampler]:
    pytest.importorskip("vllm", reason="vLLM is not installed here")
    toy = make_toy()
    settings = EngineSettings(
        model=str(toy.base), revision=None, dtype="float32", quantization="none", lora_rank=None,
        max_sequence_tokens=20, max_rows=16, kv_cache_bytes=16 * 2**20, kv_cache_dtype="auto", head_dtype="auto",
        is_eager=True, is_cuda=False,
    )  # fmt: skip
    sampling = Sampling(toy.cfg.rollout.temperature, toy.cfg.rollout.max_completion_tokens, 16)
    with closing(VllmSampler(start_engine(settings), tokenizer, "", sampling, False)) as sampler:
        yield sampler


def run(toy: Any, sampler: Sampler, prompts: Sequence[Prompt], folder: Path, *, stop_after: int = 1000) -> Any:
    """Run or go on with a run in `folder`, up to `stop_after` more steps; its trained weights."""
    folder.mkdir(exist_ok=True)
    with open_scorer(toy.cfg.rewards, toy.cfg.verifiers, tags_of(toy.cfg.model.template)) as scorer:
        grpo.train(
            toy.cfg, toy.resolved, toy.policy, sampler, scorer, prompts, run=Run(folder), meter=Meter(CPU),
            show=lambda done, **values: None, stop=stopping_after(stop_after),
        )  # fmt: skip
    return toy.policy.trainable_state()


def test_a_run_that_was_stopped_has_the_same_bits_and_samples_from_what_it_had_learned(
    toy_sampler: VllmSampler, make_toy: Callable[..., Any], make_prompts: Callable[..., list[Prompt]], tmp_path: Path
) -> None:
    prompts, changes = make_prompts(*(3 + i % 4 for i in range(10))), {"grpo.steps": STEPS}
    whole = run(make_toy(changes), toy_sampler, prompts, tmp_path / "whole")
    toy_sampler.sync(make_toy(changes).policy)  # an engine that starts anew has the weights from before any step
    with pytest.raises(Interrupted):
        run(make_toy(changes), toy_sampler, prompts, tmp_path / "parts", stop_after=2)
    toy_sampler.sync(make_toy(changes).policy)
    parts = run(make_toy(changes), toy_sampler, prompts, tmp_path / "parts")
    assert records(tmp_path / "whole") == records(tmp_path / "parts") and len(records(tmp_path / "whole")) == STEPS
    assert_same_bits(parts, whole)
    assert max(record["sampler/logp_gap_max"] for record in records(tmp_path / "parts")) <= EXACT


def test_an_engine_beside_it_does_not_change_the_bits_of_training(
    toy_sampler: VllmSampler, make_toy: Callable[..., Any], make_prompts: Callable[..., list[Prompt]], tmp_path: Path
) -> None:
    """The engine draws from torch's global random numbers, and seeds them: nothing here may."""
    prompts, toys = make_prompts(*(3 + i % 4 for i in range(10))), [make_toy({"grpo.steps": 2}) for _ in range(2)]
    torch.manual_seed(1)
    alone = run(toys[0], toys[0].sampler, prompts, tmp_path / "alone")
    toy_sampler.sync(toys[1].policy)
    list(toy_sampler.sample(prompts, 4, seed=(0,)))
    beside = run(toys[1], toys[1].sampler, prompts, tmp_path / "beside")
    assert_same_bits(beside, alone)


class TestEngineSettings:
    @staticmethod
    def made(vram_gib: float = 80.0) -> Plan:
        settings = PlanSettings(
            method="lora", quantization="none", rank=16, weight_bytes=4, optimizer="adamw", completions=8,
            prompt_tokens=64, completion_tokens=48, has_reference=False, engine="vllm", recompute="tiles",
            is_cuda=False, host_bytes=None,
            completions_per_step=8, shares_weights=True, has_fp8_cache=False, kept_share=0.0, states_on_host=None,
        )  # fmt: skip
        return plan(find_shape("SmolLM2-135M"), settings, card_of_size(vram_gib), all_shapes())

    def test_the_cache_is_the_plans_or_the_users(self, make_config: Callable[..., Config]) -> None:
        changes = {"rollout.sampler": "vllm", "rollout.max_rows": 64}

        def settings_of(cfg: Config) -> EngineSettings:
            return engine_settings(cfg, resolve(cfg), Source("somewhere", None, None), self.made())

        by_plan = settings_of(make_config(changes))
        by_user = settings_of(make_config(changes | {"rollout.vllm.kv_cache_gib": 0.5}))
        assert by_plan.kv_cache_bytes == 64 * 128 * find_shape("SmolLM2-135M").kv_bytes_per_token(4)
        assert by_user.kv_cache_bytes == GIB // 2
        assert by_plan.max_sequence_tokens == 112 and by_plan.is_eager and not by_plan.is_cuda
        assert by_plan.lora_rank is None
        adapter = settings_of(make_config(changes | {"model.adapter": "lora"}))
        assert adapter.lora_rank == make_config().model.lora.rank

    @pytest.mark.parametrize(
        "changes, said",
        [
            (
                {"rollout.vllm.kv_cache_dtype": "fp8"},
                "kv_cache_dtype fp8 needs a GPU, and this run is on cpu: use auto",
            ),
            (
                {"model.adapter": "lora", "model.quantization": "nf4-dynamic"},
                "would sample from another model; use nf4",
            ),
        ],
    )
    def test_what_it_cannot_do_is_refused_before_any_work(
        self, changes: dict[str, Any], said: str, make_config: Callable[..., Config]
    ) -> None:
        cfg = make_config({"rollout.sampler": "vllm"} | changes)
        with pytest.raises(UserError, match=said):
            check_sampler(cfg, resolve(cfg), Source("somewhere", None, None))

    @pytest.mark.parametrize(("dtype", "is_refused"), [("float32", True), ("bfloat16", False), ("float16", False)])
    def test_adapters_on_a_gpu_are_in_16_bits(
        self, dtype: str, is_refused: bool, make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cfg = make_config({"rollout.sampler": "vllm", "model.adapter": "lora", "compute.dtype": dtype})
        monkeypatch.setattr("rlvr.stages.opening.read_shape", lambda file: find_shape("Qwen2.5-1.5B"))
        monkeypatch.setattr("rlvr.stages.opening.config_file", lambda source: Path())
        monkeypatch.setattr("rlvr.stages.opening.check_engine", lambda needs, versions, platform: [])
        resolved = resolve(cfg, device=torch.device("cuda"))
        if is_refused:
            with pytest.raises(UserError, match=r"adapters in 16 bits on a GPU, and compute.dtype is float32"):
                check_sampler(cfg, resolved, Source("somewhere", None, None))
        else:
            assert check_sampler(cfg, resolved, Source("somewhere", None, None)) == []


def test_the_stages_run_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("vllm", reason="vLLM is not installed here")
    from rlvr.stages import evaluate, prepare, sft  # noqa: PLC0415
    from rlvr.stages import grpo as grpo_stage  # noqa: PLC0415

    root = Path(__file__).parents[2]
    params = smoke_params().replace("sampler: native", "sampler: vllm")
    (tmp_path / "params.yaml").write_text(params)
    (tmp_path / "presets").symlink_to(root / "presets")
    monkeypatch.chdir(tmp_path)
    for stage in (prepare, sft, grpo_stage, evaluate):
        stage.main()
    log = [json.loads(line) for line in Path("logs/train.jsonl").read_text().splitlines()]
    assert log and max(record["sampler/logp_gap_max"] for record in log) <= EXACT
    found = json.loads(Path("metrics/evaluate.json").read_text())
    assert all(found[name]["count"] == 16 for name in ("base", "sft", "grpo"))
