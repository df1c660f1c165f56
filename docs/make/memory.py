"""The tables of docs/memory.md: `make docs` writes them between their markers."""

from __future__ import annotations

import json
import re
from pathlib import Path

from rlvr.plan.cards import CARDS, COMMON, GIB, card_of_size, find_card
from rlvr.plan.grids import Grid, examples_grid, least_grid, longest_grid, plan_grid, published_grid
from rlvr.plan.planner import plan, with_context
from rlvr.plan.settings import PlanSettings
from rlvr.plan.shapes import all_shapes, find_shape

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
    }


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
