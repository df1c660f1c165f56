"""Peaks of an update of any model shape on any card, simulated next to the plan: no GPU, a minute on one core each.

    python benchmarks/gpu/simulate.py                                       # the published table, all layers: minutes
    python benchmarks/gpu/simulate.py --layers 2                            # the same of two layers: a minute
    python benchmarks/gpu/simulate.py Llama-3.1-8B --tokens 20480 --sequences 8 --rows
    python benchmarks/gpu/simulate.py Phi-4 --card-gib 13.5 --tokens 2048   # as the planner would have it
    python benchmarks/gpu/simulate.py --preset llama-3.1-8b-gsm8k

Policy, loss, backward, layers in tiles, offload, adapters, 4-bit weights and optimizer are the project's own; tensors
have no memory, so that every operation can be counted at full size. Figures are of live tensors, and, by a model of
torch's allocator, of what it would hold for them. CUDA's own memory, cuBLAS's workspaces (8 to 32 MiB) and what kernels
other than flash attention's backward take inside are not in them. Nothing here says how fast or how exact anything is.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from models import choice_of, settings_of, shape_named
from rlvr.plan.cards import card_of_size
from rlvr.plan.planner import plan
from rlvr.plan.settings import Choice, PlanSettings
from rlvr.plan.shapes import Shape
from rlvr.stages.provenance import commit, versions
from simulation import Simulation, simulate
from speed import speed_lines, summed

GIB = 2**30
SHOWN = 24  # rows of a peak
LONG, LONGEST = 20_480, 131_072
PUBLISHED: tuple[tuple[str, ...], ...] = (
    ("Llama-3.1-8B", "--completions", "2"),
    ("Llama-3.1-8B", "--completions", "2", "--no-offload"),
    ("Llama-3.1-8B", "--completions", "2", "--states-on-host"),
    ("Llama-3.1-8B", "--sequences", "8"),
    ("Llama-3.1-8B", "--tokens", str(LONGEST), "--completions", "1"),
    ("Qwen2.5-1.5B", "--tokens", "2048", "--prompt-tokens", "512", "--completions", "8", "--card-gib", "3.5"),
    ("Phi-4", "--tokens", "2048", "--prompt-tokens", "512", "--completions", "8", "--card-gib", "13.5"),
)


@dataclass(frozen=True)
class Case:
    """An update to simulate."""

    shape: Shape
    settings: PlanSettings
    choice: Choice

    @property
    def title(self) -> str:
        settings, choice = self.settings, self.choice
        method = "all weights" if settings.method == "full" else f"rank {settings.rank}"
        tiles = "nothing recomputed" if settings.recompute == "none" else f"tiles of {choice.tile_rows:,}"
        return (
            f"{self.shape.name}, {self.shape.num_hidden_layers} layers, {choice.sequences} × {settings.context:,} "
            f"tokens in a micro-batch, {method}, {settings.quantization}, {tiles}, "
            f"layer inputs on the {'host' if choice.offload else 'card'}"
            + (", attention kept" if choice.keep_attention else "")
            + (", states on the host" if choice.states_on_host else "")
        )


def case_of(options: argparse.Namespace) -> Case:
    """What the options ask for. With --card-gib the planner chooses."""
    asked = {"num_hidden_layers": options.layers, "vocab_size": options.vocabulary}
    changes = {name: value for name, value in asked.items() if value is not None}
    shape = shape_named(options.shape, is_tiny=False, **changes)
    weight_bytes = 4 if options.bits == 32 else 2
    settings = replace(
        settings_of(
            rank=options.rank, completions=options.completions or max(2, options.sequences),
            prompt_tokens=options.prompt_tokens, completion_tokens=options.tokens - options.prompt_tokens,
            device=torch.device("cuda"),
        ),
        method="full" if options.full else "lora",
        quantization="nf4" if options.bits == 4 else "none",
        weight_bytes=weight_bytes,
        optimizer=options.optimizer,
        recompute="tiles" if options.tile_rows else "none",
        states_on_host=options.states_on_host,
    )  # fmt: skip
    if options.card_gib is not None:
        return Case(shape, settings, plan(shape, settings, card_of_size(options.card_gib), ()).choice)
    choice = choice_of(
        sequences=options.sequences, offload=not options.no_offload and options.tile_rows > 0,
        tile_rows=options.tile_rows or 4096, head_rows=options.head_rows,
    )  # fmt: skip
    places = {"states_on_host": options.states_on_host, "keep_attention": options.keep_attention}
    return Case(shape, settings, replace(choice, **places))


def case_of_preset(name: str, layers: int | None) -> Case:
    """The largest step that a preset's settings allow, on a card with bfloat16."""
    from rlvr.config import PARAMS_FILE, check_config, presets  # noqa: PLC0415
    from rlvr.plan.run_settings import choice_of as choice_of_run  # noqa: PLC0415
    from rlvr.plan.shapes import find_shape  # noqa: PLC0415
    from rlvr.stages.planning import run_settings, training_settings  # noqa: PLC0415
    from rlvr.stages.resolve import resolve_training  # noqa: PLC0415

    cfg = check_config(presets.with_preset(PARAMS_FILE.read_text(encoding="utf-8"), name), name)
    if cfg.compute.dtype == "auto":
        dtype = "float32" if cfg.model.adapter == "none" else "bfloat16"
        cfg = cfg.model_copy(update={"compute": cfg.compute.model_copy(update={"dtype": dtype})})
    resolved = resolve_training(cfg, device=torch.device("cuda"))
    shape = find_shape(cfg.model.source)
    completions = cfg.grpo.completions_per_prompt
    at_once = completions * cfg.grpo.prompts_per_step
    settings = training_settings(
        cfg, resolved, prompt_tokens=cfg.prepare.max_prompt_tokens, completions=completions, at_once=at_once,
        has_reference=cfg.grpo.beta > 0.0,
    )  # fmt: skip
    run = run_settings(cfg, resolved, shape, minibatch=at_once // cfg.grpo.minibatches_per_rollout)
    settings = replace(settings, host_bytes=None, recompute="none" if run.tile_rows is None else "tiles")
    return Case(shape if layers is None else replace(shape, num_hidden_layers=layers), settings,
                choice_of_run(run, settings))  # fmt: skip


def lines(found: Simulation, *, has_rows: bool) -> Iterator[str]:
    """A table of the phases, and with `has_rows` one of each peak."""
    yield f"  {'GiB':12}{'simulated':>11}{'planned':>11}{'plan off by':>13}"
    compared = found.compared()
    for name in (*found.peaks, "update"):
        if name in compared and name != "prompt":
            peak, planned = compared[name]
            yield f"  {name:12}{peak.bytes / GIB:11.3f}{planned / GIB:11.3f}{planned / peak.bytes - 1:+13.1%}"
        else:
            yield f"  {name:12}{found.peaks[name].bytes / GIB:11.3f}"
    planned_host = found.prediction.host_bytes
    yield f"  {'host':12}{found.host_bytes / GIB:11.3f}{planned_host / GIB:11.3f}"
    for name, (allocated, reserved) in found.reserved.items():
        share = (reserved - allocated) / max(1, allocated - found.resident_bytes)
        yield f"  {'reserved':12}{reserved / GIB:11.3f}  {name}: {share:.1%} of what comes and goes, above it"
    if has_rows:
        for name in compared:
            yield from row_lines(found, name)


def row_lines(found: Simulation, phase: str) -> Iterator[str]:
    """The rows of a peak, those of plan and simulation that have one name in one line."""
    peak, _ = found.compared()[phase]
    of_plan = max(("head", "backward", "optimizer"), key=found.prediction.allocated_bytes)
    planned = {row.name: row.amount_bytes for row in found.prediction.phases[of_plan if phase == "update" else phase]}
    yield f"  {phase}, GiB: simulated, planned"
    names = [name for name in planned if name in peak.rows] + [name for name in planned if name not in peak.rows]
    others = [name for name in peak.rows if name not in planned]
    for name in (*names, *others[:SHOWN]):
        cells = (f"{rows[name] / GIB:10.4f}" if name in rows else " " * 10 for rows in (peak.rows, planned))
        yield f"    {' '.join(cells)}  {name}"
    if len(others) > SHOWN:
        yield f"    {sum(peak.rows[name] for name in others[SHOWN:]) / GIB:10.4f} {'':10}  {len(others) - SHOWN} more"


def as_json(case: Case, found: Simulation) -> dict[str, Any]:
    """One update for a table that a script writes."""
    return {
        "what": case.title,
        "shape": case.shape.name,
        "layers": case.shape.num_hidden_layers,
        "settings": asdict(case.settings),
        "choice": asdict(case.choice),
        "phases": {name: peak.bytes for name, peak in found.peaks.items()},
        "planned_bytes": {name: planned for name, (_, planned) in found.compared().items()},
        "host_bytes": found.host_bytes,
        "planned_host_bytes": found.prediction.host_bytes,
        "resident_bytes": found.resident_bytes,
        "reserved_bytes": {name: reserved for name, (_, reserved) in found.reserved.items()},
        "work": {name: asdict(work) for name, work in found.work.items()},
    }


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("shape", nargs="?", help="name in presets/shapes, hub name, or config.json")
    made.add_argument("--tokens", type=int, default=LONG, help="length of a sequence, prompt included")
    made.add_argument("--prompt-tokens", type=int, default=0)
    made.add_argument("--sequences", type=int, default=1, help="completions in a micro-batch")
    made.add_argument("--completions", type=int, help="completions of the prompt (default: sequences, at least 2)")
    made.add_argument("--layers", type=int, help="number of layers (default: all); peaks are linear in it")
    made.add_argument("--vocabulary", type=int, help="number of tokens that exist (default: the shape's)")
    made.add_argument("--rank", type=int, default=32)
    made.add_argument("--full", action="store_true", help="train all weights, with --bits 16 or 32")
    made.add_argument("--bits", type=int, choices=(4, 16, 32), default=4)
    made.add_argument("--optimizer", choices=("adamw", "adamw_8bit"), default="adamw_8bit")
    made.add_argument("--tile-rows", type=int, default=2048, help="0: nothing is recomputed")
    made.add_argument("--head-rows", type=int, default=1024)
    made.add_argument("--no-offload", action="store_true", help="layer inputs stay on the card")
    made.add_argument("--keep-attention", action="store_true", help="attention's outputs wait with the inputs")
    made.add_argument("--states-on-host", action="store_true", help="the optimizer's, between steps")
    made.add_argument("--card-gib", type=float, help="memory of a card, for which the planner chooses")
    made.add_argument("--preset", help="settings of presets/NAME.yaml")
    made.add_argument("--rows", action="store_true", help="what is live at each peak, next to the plan's rows")
    made.add_argument("--speed", action="store_true", help="work of each phase, and its least time on common cards")
    made.add_argument("--no-flash", action="store_true", help="attention as on a card before Ampere, such as the T4")
    made.add_argument("--out", type=Path, help="JSON file of the figures, for docs/make/memory.py")
    return made


def cases(arguments: Sequence[str] | None) -> tuple[list[Case], argparse.Namespace]:
    """The updates that are asked for; the published table where none is."""
    options = parser().parse_args(arguments)
    if options.preset is not None:
        return [case_of_preset(options.preset, options.layers)], options
    if options.shape is not None:
        return [case_of(options)], options
    layers = [] if options.layers is None else ["--layers", str(options.layers)]
    return [case_of(parser().parse_args([*published, *layers])) for published in PUBLISHED], options


def main(arguments: Sequence[str] | None = None) -> None:
    wanted, options = cases(arguments)
    updates: list[dict[str, Any]] = []
    for case in wanted:
        found = simulate(case.shape, case.settings, case.choice, has_flash=not options.no_flash)
        title = f"{case.title} ({found.seconds:.0f} s)"
        print("\n".join([title, *lines(found, has_rows=options.rows)]), flush=True)
        if options.speed:
            plain = replace(case.settings, recompute="none"), replace(case.choice, offload=False)
            ideal = summed(simulate(case.shape, *plain).work)
            print("\n".join(speed_lines(found.work, ideal, has_flash=not options.no_flash)), flush=True)
        print(flush=True)
        updates.append(as_json(case, found))
    if options.out is not None:
        about = {"command": " ".join(["python", *sys.argv]), "commit": commit(), "versions": versions()}
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(about | {"updates": updates}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
