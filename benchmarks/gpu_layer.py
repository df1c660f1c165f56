"""One decoder layer, and a whole stack of them, in NF4 with an adapter: bytes, milliseconds, and what offload costs.

    python benchmarks/gpu_layer.py                # on an NVIDIA card: shapes of Llama-3.1-8B; about 5 minutes
    python benchmarks/gpu_layer.py --tokens 8192  # sequences of another length

Weights are random. On a machine without a card the same code runs on a tiny shape and writes no bytes: it only shows
that it works. Needs torch, transformers, peft and bitsandbytes.
"""
# S tokens · D hidden

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AutoModelForCausalLM, LlamaConfig

from rlvr import attention
from rlvr.memory.layer import install
from rlvr.memory.lora import fuse
from rlvr.memory.quantized import quantize

RESULTS = Path(__file__).parent / "results"
KERNELS = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}
PREDICTED_KB_PER_TOKEN = {True: 115.6, False: 222.0}  # tiled, untiled; of the 8B shape


@dataclass(frozen=True)
class Shape:
    """A Llama of this shape, and how much of it runs."""

    hidden: int
    inner: int
    heads: int
    kv_heads: int
    vocabulary: int
    layers: int
    rank: int
    tokens: int
    tiles: tuple[int, ...]
    rounds: int


LLAMA_8B = Shape(4096, 14336, 32, 8, 128256, 32, 32, 20480, (2048, 4096), 3)
TINY = Shape(64, 128, 4, 2, 50, 3, 4, 48, (16, 32), 1)


def make_model(shape: Shape, device: torch.device, *, layers: int) -> Any:
    """A Llama with random NF4 weights and an adapter in float32."""
    AttentionInterface.register(attention.NAME, attention.attention)
    config = LlamaConfig(
        hidden_size=shape.hidden,
        intermediate_size=shape.inner,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        vocab_size=shape.vocabulary,
        num_hidden_layers=layers,
        max_position_embeddings=131072,
        rope_theta=500000.0,
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation=attention.NAME)
    quantize(model, device=device)
    settings = LoraConfig(r=shape.rank, lora_alpha=shape.rank, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(model, settings).train()


def layout_of(tokens: int, sequences: int, device: torch.device) -> tuple[Tensor, attention.PackedLayout]:
    position_S = torch.arange(tokens, device=device).repeat(sequences)
    return position_S, attention.PackedLayout([], [tokens] * sequences, list(range(sequences)), device)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def peak(device: torch.device, found: dict[str, Any]) -> Iterator[None]:
    """Bytes allocated above those before, and reserved in all, at the highest; None where there is no card."""
    found["peak_above_bytes"] = found["peak_reserved_bytes"] = None
    if device.type != "cuda":
        yield
        return
    torch.cuda.empty_cache()  # so that what is reserved belongs to this case
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    yield
    found["resident_bytes"] = before
    found["peak_above_bytes"] = torch.cuda.max_memory_allocated(device) - before
    found["peak_reserved_bytes"] = torch.cuda.max_memory_reserved(device)


def timed(work: Callable[[], None], device: torch.device, rounds: int) -> float:
    """Median milliseconds of `rounds` calls after the first."""
    spent = []
    for _ in range(rounds + 1):
        synchronize(device)
        started = time.perf_counter()
        work()
        synchronize(device)
        spent.append(1000.0 * (time.perf_counter() - started))
    return statistics.median(spent[1:])


def attention_workspace(shape: Shape, device: torch.device) -> list[dict[str, Any]]:
    """Bytes that the backward of each attention kernel needs beside its inputs, output and gradients."""
    runs = []
    head = shape.hidden // shape.heads
    for name, backend in KERNELS.items():
        found: dict[str, Any] = {"what": f"attention backward, {name}", "tokens": shape.tokens}
        q, k, v = (
            torch.randn(1, heads, shape.tokens, head, dtype=torch.bfloat16, device=device, requires_grad=True)
            for heads in (shape.heads, shape.kv_heads, shape.kv_heads)
        )
        try:
            with sdpa_kernel(backend):
                out = scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
                direction = torch.randn_like(out)
                with peak(device, found):
                    torch.autograd.grad(out, (q, k, v), direction)
        except RuntimeError as error:
            runs.append(found | {"not_available": str(error).splitlines()[0]})
            continue
        gradients = sum(x.nbytes for x in (q, k, v))
        above = found["peak_above_bytes"]
        runs.append(found | {"workspace_bytes": None if above is None else above - gradients})
    return runs


def one_layer(shape: Shape, device: torch.device) -> list[dict[str, Any]]:
    """Recompute and backward of one layer: bytes for each token, tiled and not, adapter fused and not."""
    runs = []
    for fused, tile_rows in [
        (False, None),
        (False, shape.tokens),
        (True, shape.tokens),
        *[(True, n) for n in shape.tiles],
    ]:
        model = make_model(shape, device, layers=1)
        if fused:
            assert fuse(model) == []
        if tile_rows is not None:
            assert install(model, tile_rows=tile_rows, offload=False) == []
        body = model.get_base_model().get_decoder()
        position_S, layout = layout_of(shape.tokens, 1, device)
        x = torch.randn(1, shape.tokens, shape.hidden, dtype=torch.bfloat16, device=device, requires_grad=True)
        direction = torch.randn_like(x)
        rotary = body.rotary_emb(x, position_S[None])

        def run(layer: Any = body.layers[0], x: Tensor = x, rotary: Any = rotary, layout: Any = layout,
                direction: Tensor = direction) -> None:  # fmt: skip
            layer(x, position_embeddings=rotary, layout=layout).backward(direction)

        run()  # gradients of the adapter exist from here on
        found: dict[str, Any] = {
            "what": "one layer, forward and backward", "tokens": shape.tokens, "tile_rows": tile_rows, "fused": fused
        }  # fmt: skip
        with peak(device, found):
            run()
        above = found["peak_above_bytes"]
        found["kb_per_token"] = None if above is None else above / shape.tokens / 1000
        if fused and shape is LLAMA_8B:
            found["predicted_kb_per_token"] = PREDICTED_KB_PER_TOKEN[tile_rows != shape.tokens]
        runs.append(found | {"milliseconds": timed(run, device, shape.rounds)})
    return runs


def all_layers(shape: Shape, device: torch.device) -> list[dict[str, Any]]:
    """The whole stack, one sequence and eight in a micro-batch, layer inputs on the device and on the host."""
    runs = []
    model = make_model(shape, device, layers=shape.layers)
    assert fuse(model) == []
    body = model.get_base_model().get_decoder()
    for sequences in (1, 8):
        position_S, layout = layout_of(shape.tokens, sequences, device)
        token_S = position_S % shape.vocabulary

        def run(token_S: Tensor = token_S, position_S: Tensor = position_S, layout: Any = layout) -> None:
            out = body(input_ids=token_S[None], position_ids=position_S[None], use_cache=False, layout=layout)
            out.last_hidden_state.backward(torch.ones_like(out.last_hidden_state))

        for offload in (False, True):
            assert install(model, tile_rows=shape.tiles[0], offload=offload) == []
            found: dict[str, Any] = {
                "what": f"{shape.layers} layers, forward and backward", "sequences": sequences,
                "tokens": shape.tokens, "tile_rows": shape.tiles[0], "offload": offload,
            }  # fmt: skip
            try:
                run()
                with peak(device, found):
                    run()
                found["milliseconds"] = timed(run, device, shape.rounds)
            except torch.cuda.OutOfMemoryError as error:
                found["not_available"] = str(error).splitlines()[0]
            runs.append(found)
            if offload and {"milliseconds"} <= runs[-1].keys() & runs[-2].keys():
                runs[-1]["slowdown"] = runs[-1]["milliseconds"] / runs[-2]["milliseconds"] - 1.0
    return runs


def line(run: dict[str, Any]) -> str:
    above = run.get("peak_above_bytes")
    size = "      -    " if above is None else f"{above / 2**30:7.2f} GiB"
    settings = {key: run[key] for key in ("sequences", "tile_rows", "fused", "offload") if key in run}
    extra = {key: run[key] for key in ("kb_per_token", "slowdown", "workspace_bytes", "not_available") if run.get(key)}
    return f"{run['what']:36} {size} {run.get('milliseconds', float('nan')):10.1f} ms  {settings} {extra}"


def main(arguments: Sequence[str] | None = None) -> Path:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, help="tokens of a sequence")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the figures")
    options = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    shape = LLAMA_8B if device.type == "cuda" else TINY
    if options.tokens is not None:
        shape = Shape(**vars(shape) | {"tokens": options.tokens})
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    runs = []
    for part in (attention_workspace, one_layer, all_layers):
        for run in part(shape, device):
            runs.append(run)
            print(line(run), flush=True)
    path = options.results / name.replace(" ", "-").lower() / "layer.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {
        "command": " ".join(["python", *sys.argv]),
        "device": name,
        "torch": torch.__version__,
        "shape": vars(shape),
    }
    path.write_text(json.dumps(about | {"runs": runs}, indent=1) + "\n")
    return path


if __name__ == "__main__":
    main()
