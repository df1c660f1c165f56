"""One decoder layer of Llama-3.1-8B in NF4 under an adapter: bytes for each token, and attention's workspace.

    python benchmarks/gpu/layer.py          # on an NVIDIA card, half a minute: one sequence of 20,480 tokens

The layer runs as transformers and PEFT have it, with a fused adapter in one piece, and with its feed-forward in tiles.
"""
# S tokens · D hidden

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from figures import Bench, attempt, begin, milliseconds, peak
from models import DTYPE, choice_of, make_policy, settings_of, shape_named
from rlvr.batch import micro_batch, supervised
from rlvr.memory.layer import install
from rlvr.memory.lora import fuse
from rlvr.memory.mlp import gate_in_place
from rlvr.model.policy import Policy
from rlvr.plan.shapes import Shape
from rlvr.plan.working_set import layer_bytes

TOKENS, TILES, RANK = 20_480, (2048, 4096), 32
TINY = (256, (32, 64), 4)
ROUNDS = 3
MARGIN = 1.03  # of the planner


def layout_of(tokens: int, device: torch.device) -> Any:
    """The layout of one sequence."""
    return micro_batch(supervised([((0,), torch.zeros(tokens, dtype=torch.int64))]), device).layout


def attention_calls(bench: Bench, shape: Shape, tokens: int) -> dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]]:
    """Causal attention by each kernel that torch has for it, and as this project calls it; [1, heads, S, E]."""
    layout = layout_of(tokens, bench.device)

    def ours(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        flat = (x[0].transpose(0, 1) for x in (q, k, v))
        out: Tensor = layout.attend(0, *flat, shape.head_dim**-0.5)
        return out

    def by(backend: SDPBackend, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with sdpa_kernel(backend):
            return scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

    return {
        "flash": partial(by, SDPBackend.FLASH_ATTENTION),
        "cudnn": partial(by, SDPBackend.CUDNN_ATTENTION),
        "ours": ours,
    }


def attention_workspace(bench: Bench, shape: Shape, tokens: int) -> None:
    """Bytes that the backward of each kernel needs besides inputs, output and gradients, for each token."""
    for name, call in attention_calls(bench, shape, tokens).items():

        def figures(call: Any = call) -> dict[str, Any]:
            heads = (shape.num_attention_heads, shape.num_key_value_heads, shape.num_key_value_heads)
            inputs = [
                torch.randn(1, n, tokens, shape.head_dim, dtype=DTYPE, device=bench.device, requires_grad=True)
                for n in heads
            ]
            out = call(*inputs)
            direction = torch.randn_like(out)
            backward = partial(torch.autograd.grad, out, inputs, direction, retain_graph=True)
            spent = milliseconds(backward, bench.device, rounds=ROUNDS)
            found = peak(backward, bench.device, [*inputs, out, direction])
            above = (found["above_bytes"] or 0) - sum(x.nbytes for x in inputs)
            return {"workspace_bytes_per_token": above / tokens, "milliseconds": spent} | found

        attempt(bench, f"attention backward, {name}", figures, tokens=tokens)


def layer_ways(tokens: int, tiles: Sequence[int]) -> dict[str, tuple[bool, int | None]]:
    """By name whether the adapter is fused, and the rows of a tile: None for no recomputing at all."""
    return {
        "as it is": (False, None),
        "recomputed": (False, tokens),
        "fused, one piece": (True, tokens),
        **{f"fused, tiles of {rows}": (True, rows) for rows in tiles},
    }


def layer_step(policy: Policy, tokens: int, device: torch.device) -> tuple[Callable[[], None], list[Tensor]]:
    """Forward and backward of the first layer, and the tensors that exist before."""
    layout, body = layout_of(tokens, device), policy.body
    x = torch.randn(1, tokens, body.config.hidden_size, dtype=DTYPE, device=device, requires_grad=True)
    direction = torch.randn_like(x)
    rotary = body.rotary_emb(x, torch.arange(tokens, device=device)[None])

    def run() -> None:
        body.layers[0](x, position_embeddings=rotary, layout=layout).backward(direction)

    run()  # gradients of the adapter exist from here on
    gradients = [weight.grad for weight in (x, *policy.model.parameters()) if weight.grad is not None]
    return run, [x, direction, *rotary, *policy.model.parameters(), *gradients]


def one_layer(bench: Bench, shape: Shape, tokens: int, tiles: Sequence[int], rank: int) -> None:
    """Bytes for each token of every way to run the layer, its input and the gradient of its output among them."""
    ends = 2 * tokens * shape.hidden_size * DTYPE.itemsize
    for name, (is_fused, tile_rows) in layer_ways(tokens, tiles).items():

        def figures(is_fused: bool = is_fused, tile_rows: int | None = tile_rows) -> dict[str, Any]:
            policy = make_policy(shape, rank=rank, device=bench.device)
            if is_fused:
                assert fuse(policy.model) == [], "adapters that cannot be fused"
                gate_in_place(policy.model)
            if tile_rows is not None:
                assert install(policy.model, tile_rows=tile_rows, offload=False) == [], "layers of an unknown kind"
            run, resident = layer_step(policy, tokens, bench.device)
            found = peak(run, bench.device, resident)
            spent = milliseconds(run, bench.device, rounds=ROUNDS)
            return {"kb_per_token": ((found["above_bytes"] or 0) + ends) / tokens / 1000, "milliseconds": spent} | found

        line = attempt(bench, f"layer, {name}", figures, tokens=tokens, tile_rows=tile_rows)
        if is_fused and tile_rows is not None:
            planned = planned_bytes(shape, tokens, tile_rows, rank, bench.device) / tokens / 1000
            bench.judge(f"layer, {name}, beside the plan", line.get("kb_per_token"), "KB/token",
                        at_most=round(MARGIN * planned, 1))  # fmt: skip


def planned_bytes(shape: Shape, tokens: int, tile_rows: int, rank: int, device: torch.device) -> int:
    """What the planner has for one layer: its working set, its input, and the largest weight while it is unpacked.

    The two buffers of the offload, 16.4 KB a token for Llama-3.1-8B, are not among it: one layer needs none.
    """
    settings = settings_of(rank=rank, completions=1, prompt_tokens=0, completion_tokens=tokens, device=device)
    choice = choice_of(sequences=1, offload=False, tile_rows=tile_rows, head_rows=1024)
    weight = max(linear.weights for linear in shape.linears())
    size = DTYPE.itemsize
    return sum(layer_bytes(shape, settings, choice).values()) + tokens * shape.hidden_size * size + weight * size


def main(arguments: Sequence[str] | None = None) -> None:
    bench, _ = begin(__doc__, arguments)
    tokens, tiles, rank = TINY if bench.is_tiny else (TOKENS, TILES, RANK)
    shape = shape_named("Llama-3.1-8B", is_tiny=bench.is_tiny, vocab_size=128, num_hidden_layers=1)
    attention_workspace(bench, shape, tokens)
    one_layer(bench, shape, tokens, tiles, rank)


if __name__ == "__main__":
    main()
