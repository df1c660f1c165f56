"""The pre-finetune: the loss it lowers, when it stops, and that it resumes after a stop as if there had been none."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rlvr import sft
from rlvr.chat import TAGS, render_target
from rlvr.model.policy import Policy
from rlvr.tasks.arithmetic import problem
from rlvr.training.optim import Optimizer
from rlvr.training.run import Run
from rlvr.types import Completion, Group, Interrupted, Prompt
from rlvr.verifiers.verify import Verify
from support.precision import assert_same_weights
from support.runs import stopping_after

TAGS_USED = TAGS["working_out"]
CHANGES = {
    "sft.max_steps": 9,
    "sft.batch_size": 4,
    "sft.check_every": 3,
    "sft.warmup_steps": 2,
    "sft.stop_accuracy": None,
    "rollout.max_completion_tokens": 24,
}


@pytest.fixture(scope="module")
def prompts(tokenizer: Any) -> list[Prompt]:
    problems = [problem(a, b, 2) for a in (12, 35, 71) for b in (18, 24, 40)]
    return [Prompt(p, tuple(tokenizer.encode(f"What is {p.id}?", add_special_tokens=False))) for p in problems]


@pytest.fixture(scope="module")
def examples(prompts: list[Prompt], tokenizer: Any) -> list[sft.Example]:
    targets = [tokenizer.encode(render_target(p.problem, TAGS_USED), add_special_tokens=False) for p in prompts]
    return [
        (p.tokens, torch.tensor([*target, tokenizer.eos_token_id])) for p, target in zip(prompts, targets, strict=True)
    ]


@pytest.fixture
def run_sft(examples: list[sft.Example], prompts: list[Prompt], verify: Verify) -> Callable[..., dict[str, Any]]:
    """Start or resume a run in `folder`; what was measured last."""

    def start(
        toy: Any,
        folder: Path,
        *,
        stop_after: int = 1_000,
        show: Callable[..., None] = lambda done, **values: None,
    ) -> dict[str, Any]:
        folder.mkdir(exist_ok=True)
        return sft.train(
            toy.cfg,
            toy.resolved,
            toy.policy,
            toy.sampler,
            examples,
            prompts[:4],
            verify,
            run=Run(folder),
            show=show,
            stop=stopping_after(stop_after),
        )

    return start


def log_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]


def plain_loss(model: Any, batch: Sequence[sft.Example]) -> Tensor:
    """Mean of -log p over the target tokens of the whole batch, one row at a time; prompts are not trained on."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    for prompt, target in batch:
        logits_SV = model(input_ids=torch.tensor([[*prompt, *target.tolist()]])).logits[0]
        logp_SV = logits_SV[len(prompt) - 1 : -1].log_softmax(-1)
        total, count = total - logp_SV.gather(1, target[:, None]).sum(), count + len(target)
    return total / count


@pytest.mark.parametrize("budget", [10_000, 60, 40])
def test_a_step_is_that_of_a_plain_model(
    budget: int, make_policy: Callable[..., Policy], make_plain: Callable[..., Any], examples: list[sft.Example]
) -> None:
    """Every token weighs the same, whatever the micro-batch it lies in."""
    batch = [*examples[:3], ((7, 8), torch.tensor([9, 1])), ((7,), torch.tensor([1]))]
    policy, plain = make_policy(), make_plain()
    optimizer = Optimizer(
        policy.trainable(),
        learning_rate=0.01,
        warmup_steps=0,
        betas=(0.9, 0.98),
        weight_decay=0.0,
        schedule="constant",
        total_steps=9,
        kind="adamw",
        on_host=False,
        scales_loss=False,
    )
    found = sft.supervised_step(policy, optimizer, batch, budget, 0.5)
    loss = plain_loss(plain, batch)
    torch.autograd.backward(loss)
    torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
    torch.optim.AdamW(plain.parameters(), lr=0.01, betas=(0.9, 0.98), weight_decay=0.0).step()
    assert found == pytest.approx(loss.item(), abs=1e-12)
    for a, b in zip(policy.model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


def test_the_loss_falls_and_is_measured_on_sampled_answers(
    make_toy: Callable[..., Any], run_sft: Callable[..., Any], tmp_path: Path
) -> None:
    toy = make_toy(CHANGES | {"sft.max_steps": 120, "sft.check_every": 20, "sft.learning_rate": 1e-2})
    measured = run_sft(toy, tmp_path)
    log = log_of(tmp_path)
    assert [line["step"] for line in log] == [-1, 19, 39, 59, 79, 99, 119]
    assert log[0]["loss"] is None and log[0]["format_rate"] < 0.1 and log[1]["loss"] > 1.5 and log[-1]["loss"] < 0.8
    assert log[-1]["format_rate"] > 0.5
    assert measured == {k: v for k, v in log[-1].items() if k != "step"}
    assert measured["steps"] == 120


@pytest.mark.parametrize(
    "changes", [{"sft.stop_format_rate": 0.0}, {"sft.stop_accuracy": 0.0}], ids=["format rate", "accuracy"]
)
def test_it_stops_at_the_first_look_that_reaches_a_threshold_and_says_so(
    changes: dict[str, Any],
    make_toy: Callable[..., Any],
    run_sft: Callable[..., Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_sft(make_toy(CHANGES | {"sft.check_every": 4}), tmp_path / "never")["steps"] == 9
    assert run_sft(make_toy(CHANGES | changes), tmp_path / "before any step")["steps"] == 0
    (name,) = changes
    assert (
        f"ends after 0 of 9 steps: {name.removeprefix('sft.stop_')} 0 has reached {name} 0" in capsys.readouterr().out
    )


def test_every_step_is_shown_with_what_was_measured_last(
    make_toy: Callable[..., Any], run_sft: Callable[..., Any], tmp_path: Path
) -> None:
    shown: list[tuple[int, dict[str, float | None]]] = []
    run_sft(make_toy(CHANGES), tmp_path, show=lambda done, **values: shown.append((done, values)))
    assert [done for done, _ in shown] == list(range(10))
    assert shown[0][1]["loss"] is None and all(values["loss"] is not None for _, values in shown[1:])
    assert all(values["format_rate"] is not None for _, values in shown)


def test_the_same_seed_gives_the_same_weights(
    make_toy: Callable[..., Any], run_sft: Callable[..., Any], tmp_path: Path
) -> None:
    first, again = make_toy(CHANGES), make_toy(CHANGES)
    assert run_sft(first, tmp_path / "a") == run_sft(again, tmp_path / "b")
    assert_same_weights(first.policy.model, again.policy.model)
    assert log_of(tmp_path / "a") == log_of(tmp_path / "b")


@pytest.mark.parametrize("stop_after", [2, 3, 5, 9])
def test_stopped_and_resumed_is_bit_identical(
    stop_after: int, make_toy: Callable[..., Any], run_sft: Callable[..., Any], tmp_path: Path
) -> None:
    whole, parts = make_toy(CHANGES), make_toy(CHANGES)
    measured = run_sft(whole, tmp_path / "whole")
    with pytest.raises(Interrupted, match=f"stopped after step {stop_after}"):
        run_sft(make_toy(CHANGES), tmp_path / "parts", stop_after=stop_after)
    assert run_sft(parts, tmp_path / "parts") == measured
    assert_same_weights(whole.policy.model, parts.policy.model)
    assert log_of(tmp_path / "parts") == log_of(tmp_path / "whole")


def test_killed_after_the_last_look_it_still_tells_what_was_measured(
    make_toy: Callable[..., Any], run_sft: Callable[..., Any], tmp_path: Path
) -> None:
    def killed(done: int, **values: float) -> None:
        if done == CHANGES["sft.max_steps"]:
            raise KeyboardInterrupt

    measured = run_sft(make_toy(CHANGES), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run_sft(make_toy(CHANGES), tmp_path / "parts", show=killed)
    assert run_sft(make_toy(CHANGES), tmp_path / "parts") == measured
    assert measured["steps"] == 9 and math.isfinite(measured["loss"])


def test_rates_are_strict(prompts: list[Prompt], verify: Verify) -> None:
    right, wrong = (render_target(problem(12, b, 2), TAGS_USED) for b in (18, 19))
    texts = [right, wrong, right.replace("30", "30.0"), right + "!", "30", ""]
    group = Group(prompts[0], tuple(Completion(torch.tensor([1]), torch.zeros(1), text, False) for text in texts))
    assert sft.rates([group], TAGS_USED, verify) == {"accuracy": 2 / 6, "format_rate": 3 / 6}
