"""Every path of an update on the stand-in, on small models: families, types, windows, shared prompts, offload, losses.

    python paths.py          # prints a line for each; exit code 1 when one raised

Host code, and the checks of torch's C++ code, run for real; numbers do not exist.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rlvr.batch import MiniBatch, TrainRow
from rlvr.loss import correction, policy_loss, reference
from rlvr.model.policy import for_training, in_turn
from rlvr.training.optim import Optimizer
from rlvr.types import LossSpec, Totals
from support.tiny_models import FAMILIES, make_model
from without_values import leave_out_values

CUDA = torch.device("cuda")
HALF = torch.bfloat16 if torch.cuda.get_device_capability() >= (8, 0) else torch.float16
ROWS = tuple((prompt, length) for prompt in (0, 1) for length in (20, 9, 1))
SPEC = LossSpec(
    loss_type="dr_grpo", epsilon=0.2, epsilon_high=0.28, delta=None, beta=0.0, kl_unbiased=True,
    importance_correction="off", importance_min=None, importance_max=3.0, entropy_bonus=0.0, max_completion_tokens=64,
    temperature=1.0,
)  # fmt: skip
TRAINED = {
    "tile_rows": 8, "offload": True, "keep_attention": False, "kernels": "auto", "logit_chunk_rows": 16,
}  # fmt: skip
STEPS = 2  # the second has states and gradients from its start


def update(
    family: str,
    dtype: torch.dtype = HALF,
    *,
    adapter: bool = True,
    optimizer: Any = "adamw_8bit",
    on_host: bool = True,
    share_prompts: Any = "auto",
    tokens: int = 10**6,
    spec: Mapping[str, Any] | None = None,
    trained: Mapping[str, Any] | None = None,
    **shape: Any,
) -> None:
    """Two optimizer steps of a small model."""
    policy = make_model(family, adapter=adapter, dtype=torch.float32, **shape)
    for weight in policy.model.parameters():
        if not (adapter and weight.requires_grad):
            weight.data = weight.data.to(dtype)
    policy.model.to(CUDA)
    policy = for_training(policy, **{**TRAINED, **(trained or {})})
    adamw = Optimizer(
        policy.trainable(), learning_rate=1e-3, warmup_steps=0, betas=(0.9, 0.99), weight_decay=0.0,
        schedule="constant", total_steps=STEPS, kind=optimizer, on_host=on_host, scales_loss=policy.is_float16,
    )  # fmt: skip
    loss_spec, totals = replace(SPEC, **(spec or {})), Totals(len(ROWS), sum(length for _, length in ROWS))
    for _ in range(STEPS):
        micros = MiniBatch(_rows(), totals).split_sharing(tokens, CUDA, share_prompts=share_prompts)
        for given in in_turn(policy, micros, with_gradient=True):
            micro = replace(given, reference_logp_T=given.sampler_logp_T.clone()) if loss_spec.beta else given
            loss, statistics = policy_loss(
                policy.hidden(micro), policy.head, micro, totals=totals, spec=loss_spec, impl=policy.kernels,
                chunk_rows=policy.logit_chunk_rows,
            )  # fmt: skip
            adamw.backward(loss)
            assert loss.is_cuda and statistics.sums.is_cuda
            del loss
        adamw.step_clipped(1.0)
    adamw.load_state(adamw.state())


def _rows() -> tuple[TrainRow, ...]:
    return tuple(
        TrainRow(prompt, tuple(range(1, 12 + prompt)), torch.arange(length) % 50, torch.zeros(length), 1.0)
        for prompt, length in ROWS
    )


def cases() -> dict[str, Callable[[], None]]:
    def case(family: str = "llama", *options: torch.dtype, **changes: Any) -> Callable[[], None]:
        return lambda: update(family, *options, **changes)

    full = HALF if torch.bfloat16 == HALF else torch.float32
    shared: dict[str, Any] = {"share_prompts": "on", "tokens": 16}
    found = {f"{family}, adapter": case(family) for family in FAMILIES}
    found |= {
        "heads of 256": case("gemma3_text", head_dim=256),
        "a window": case("gemma3_text", sliding_window=8),
        "all weights": case("llama", full, adapter=False, optimizer="adamw"),
        "tied embeddings": case("llama", full, adapter=False, optimizer="adamw", tie_word_embeddings=True),
        "float32": case("llama", torch.float32, optimizer="adamw"),
        "nothing recomputed": case(trained={"tile_rows": None}),
        "inputs on the card": case("qwen3", trained={"offload": False}),
        "kept attention on the host": case("qwen3", trained={"keep_attention": True}),
        "kept attention on the card": case("qwen3", trained={"keep_attention": True, "offload": False}),
        "prompts shared": case(**shared),
        "prompts shared, a window": case("gemma3_text", sliding_window=8, **shared),
        "prompts shared, kept attention": case(trained={"keep_attention": True}, **shared),
        "states on the card": case(on_host=False),
        "without Triton": case(trained={"kernels": "torch"}, spec={"loss_type": "grpo"}),
        "reference, bonus, correction by token": case(
            spec={"beta": 0.04, "entropy_bonus": 0.01, "importance_correction": "token_truncate"}
        ),
        "correction by sequence": case(spec={"importance_correction": "sequence_mask"}),
    }
    return found | {f"loss {name}": case(spec={"loss_type": name}) for name in LOSSES}


LOSSES = ("grpo", "bnpo", "dapo", "cispo", "sapo", "gspo")


def know_the_rows() -> None:
    """How many rows a micro-batch has is read from the card: here it is known."""
    counts, num_rows = torch.bincount, len(ROWS)

    def bincount(x: Tensor, *options: Any, **more: Any) -> Tensor:
        return torch.zeros(num_rows, dtype=torch.int64, device=x.device) if x.is_cuda else counts(x, *options, **more)

    def row_sum(value_T: Tensor, row_T: Tensor) -> Tensor:
        return value_T.new_zeros(num_rows).index_add(0, row_T, value_T)

    for module, name, stand_in in ((torch, "bincount", bincount), (correction, "row_sum", row_sum)):
        setattr(module, name, stand_in)
    reference.row_sum = row_sum


def main() -> int:
    leave_out_values()
    know_the_rows()
    failed = 0
    for name, run in cases().items():
        try:
            run()
            print(f"ok      {name}", flush=True)
        except Exception as error:
            failed += 1
            print(f"FAILED  {name}: {type(error).__name__}: {str(error)[:400]}", flush=True)
            traceback.print_exc(limit=-4)
    card, version = torch.cuda.get_device_capability(), torch.__version__
    print(f"{len(cases())} paths, {failed} failed, capability {card}, torch {version}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
