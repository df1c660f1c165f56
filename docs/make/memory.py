"""The tables of docs/memory.md: `make docs` writes them between their markers."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlvr.plan.cards import CARDS, COMMON, GIB, card_of_size, find_card
from rlvr.plan.grids import Grid, examples_grid, least_grid, longest_grid, plan_grid, published_grid
from rlvr.plan.planner import plan, with_context
from rlvr.plan.predict import predict
from rlvr.plan.settings import Choice, PlanSettings
from rlvr.plan.shapes import Shape, all_shapes, find_shape
from rlvr.plan.work import Work, planned_work, update_estimate

PAGE = Path("docs/memory.md")
SIMULATED = Path("benchmarks/results/simulated/updates.json")
CONTEXTS = (2048, 8192, 20480, 32768, 131072)
EXAMPLES = (
    ("Qwen2.5-1.5B", 5.0, 2048),
    ("Qwen2.5-1.5B", "T4 16GB", 8192),
    ("Qwen2.5-3B", "T4 16GB", 8192),
    ("Phi-4", "T4 16GB", 2048),
    ("Llama-3.1-8B", "RTX 4090 24GB", 20480),
    ("Llama-3.1-8B", "H100 80GB", 131072),
    ("Llama-3.3-70B", "A6000 48GB", 8192),
    ("Llama-3.3-70B", "A6000 48GB", 32768),
)
QLORA = PlanSettings(
    method="lora", quantization="nf4", rank=32, weight_bytes=2, optimizer="adamw_8bit",
    completions=8, completions_per_step=8, prompt_tokens=512, completion_tokens=1536, has_reference=False,
    engine="native", shares_weights=True, has_fp8_cache=False, recompute="tiles", is_cuda=True, host_bytes=None,
    kept_share=0.0, states_on_host=None,
)  # fmt: skip
NOTHING_SAVED = Choice(
    sequences=1, share_prompts=True, offload=False, tile_rows=4096, head_rows=1024, kv_sequences=8, states_on_host=False
)  # fmt: skip
SPEEDS, PRICED = ("H100", "A100 80GB", "4090", "T4"), (2048, 20_480)


def tables() -> dict[str, str]:
    """Every generated table of the page by the name of its marker."""
    shapes, cards = all_shapes(), [card for card in CARDS if card.name in COMMON]
    llama = find_shape("Llama-3.1-8B")
    examples = [
        plan(
            find_shape(name),
            with_context(QLORA, context),
            card_of_size(card) if isinstance(card, float) else find_card(card),
            shapes,
        )
        for name, card, context in EXAMPLES
    ]
    one = plan(llama, with_context(QLORA, 20480), find_card("RTX 4090 24GB"), shapes)
    return {
        "least": least_grid(shapes, CONTEXTS, QLORA).markdown(),
        "longest": longest_grid(shapes, cards, QLORA).markdown(),
        "examples": examples_grid(examples).markdown(),
        "plan": plan_grid(one).markdown(),
        "published": published_grid(llama, QLORA).markdown(),
        "simulated": simulated_grid().markdown(),
        "work": work_grid(llama).markdown(),
        "prices": prices_grid(llama).markdown(),
    }


def work_grid(llama: Shape) -> Grid:
    """The work of an update by the formulas, and its estimated time on each card, for both lengths."""
    header = (
        "an update", "products, TFLOP", "attention, TFLOP", "unpacked, GB", "other kernels, GB", "link each way, GB",
        "launches", *(f"{name}, s" for name in SPEEDS),
    )  # fmt: skip
    rows = []
    for context in PRICED:
        settings = with_context(QLORA, context)
        total = Work()
        for part in planned_work(llama, settings, NOTHING_SAVED, is_ampere=True).values():
            total.add(part)
        cells = (
            total.product_flops / 1e12, total.attention_flops / 1e12, total.unpacked_bytes / 1e9,
            total.other_bytes / 1e9, total.to_host_bytes / 1e9, total.launches,
        )  # fmt: skip
        estimates = (update_estimate(llama, settings, NOTHING_SAVED, find_card(name)).seconds for name in SPEEDS)
        rows.append((f"8 × {context:,} tokens", *(f"{x:,.0f}" for x in cells), *(f"{x:,.1f}" for x in estimates)))
    return Grid("the work of an update", header, tuple(rows))


def prices_grid(llama: Shape) -> Grid:
    """What each saving takes from the peak of an update, in GiB, and adds to its time, in percent.

    All but the first are compared with layers that are recomputed in tiles of 4,096 rows.
    """
    savings: tuple[tuple[str, dict[str, Any]], ...] = (
        ("layers recomputed, compared with nothing", {}),
        ("attention's outputs kept", {"keep_attention": True}),
        ("inputs on the host", {"offload": True}),
        ("inputs and attention's outputs on the host", {"offload": True, "keep_attention": True}),
        ("states on the host between steps", {"states_on_host": True}),
        ("tiles of 2,048 rows, logits of 512", {"tile_rows": 2048, "head_rows": 512}),
        ("tiles of 1,024 rows, logits of 256", {"tile_rows": 1024, "head_rows": 256}),
        ("prompts with each micro-batch", {"share_prompts": False}),
    )
    rows = []
    for name, change in savings:
        cells = []
        for context in PRICED:
            settings, choice = with_context(QLORA, context), replace(NOTHING_SAVED, **change)
            before = settings if change else replace(settings, recompute="none")
            saved = predict(llama, before, NOTHING_SAVED).training_bytes
            saved -= predict(llama, settings, choice).training_bytes
            cells.append(f"{saved / GIB:.2f}")
            for card in map(find_card, SPEEDS):
                slower = update_estimate(llama, settings, choice, card).seconds
                cells.append(f"{slower / update_estimate(llama, before, NOTHING_SAVED, card).seconds - 1:.1%}")
        rows.append((name, *cells))
    header = [f"{name}, {context:,}" for context in PRICED for name in ("GiB", *SPEEDS)]
    return Grid("the price of each saving", ("saving", *header), tuple(rows))


def simulated_grid() -> Grid:
    """Peaks of live tensors and of what torch's allocator would hold for them, in GiB, as the file has them."""
    found = json.loads(SIMULATED.read_text(encoding="utf-8"))
    rows = []
    for update in found["updates"]:
        choice, settings = update["choice"], update["settings"]
        tokens = settings["prompt_tokens"] + settings["completion_tokens"]
        place = "host" if choice["offload"] else "card"
        run = f"{update['shape']}, {choice['sequences']} × {tokens:,}, inputs on the {place}"
        run += ", optimizer states on the host" if choice["states_on_host"] else ""
        amounts = (
            max(update["phases"].values()),
            update["planned_bytes"]["update"],
            update["reserved_bytes"]["expandable segments"],
            update["host_bytes"],
        )
        rows.append((run, *(f"{amount / GIB:.2f}" for amount in amounts)))
    header = ("one update", "simulated", "planned", "held by the allocator, simulated", "host, simulated")
    return Grid(f"simulated at commit {found['commit'][:7]}", header, tuple(rows))


def with_tables(text: str) -> str:
    """The page with what lies between `<!-- NAME -->` and `<!-- /NAME -->` made anew."""
    for name, table in tables().items():
        between = re.compile(rf"(?<=<!-- {name} -->\n).*?(?=<!-- /{name} -->)", re.DOTALL)
        parts = between.split(text)
        if len(parts) != 2:
            raise ValueError(f"{PAGE} must hold the markers of {name} once, and holds them {len(parts) - 1} times")
        text = f"{table}\n".join(parts)
    return text


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
