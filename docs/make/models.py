"""What the planner says of every QLoRA preset: `make docs` writes it where it is shown.

That is the head of each preset's file and the table in docs/models.md. All of it is for the settings as they stand:
completions in a micro-batch, tiles and rows of logits. vLLM takes for its cache what the rest leaves. A card is called
large enough where that holds all completions of a prompt; at the longest context it holds one, and the others wait.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from rlvr.config import PARAMS_FILE, Config, check_config, presets
from rlvr.model.resolved import ResolvedTraining
from rlvr.plan.cards import GIB, MIB
from rlvr.plan.grids import Grid
from rlvr.plan.planner import CONTEXT_STEP, with_context
from rlvr.plan.predict import Prediction, predict
from rlvr.plan.run_settings import RunSettings, choice_of
from rlvr.plan.settings import PlanSettings
from rlvr.plan.shapes import Shape, find_shape
from rlvr.stages.planning import run_settings, training_settings
from rlvr.stages.resolve import resolve_training

PAGE = Path("docs/models.md")
MARKS = ("<!-- presets -->\n", "<!-- /presets -->")
FITS, LONGEST = presets.FITS, "Longest context"
# GB on the box: the least that nvidia-smi shows for a card of that size
CARD_BYTES = {gb: mib * MIB for gb, mib in {4: 4096, 6: 6144, 8: 8188, 12: 12282, 16: 15360, 24: 23028, 48: 46068,
                                            80: 81559}.items()}  # fmt: skip
SHOWN = (8, 16, 24, 48, 80)


@dataclass(frozen=True)
class Planned:
    """A preset and its plan. `context_by_gb`: the longest context on a card of that many GB, 0 where none fits."""

    name: str
    shape: Shape
    settings: PlanSettings
    prediction: Prediction
    context_by_gb: dict[int, int]

    @property
    def card_gb(self) -> int:
        """The smallest card that holds it."""
        return next(gb for gb, size in CARD_BYTES.items() if self.prediction.peak_bytes <= size)

    def lines(self) -> tuple[str, str]:
        """What the preset's file says on top."""
        peak = f"{self.prediction.peak_bytes / GIB:.1f} GiB at its peak"
        fits = f"{FITS} {self.card_gb} GB with {self.settings.context:,} tokens: {peak}, by the plan."
        return fits, f"{LONGEST}, one completion at a time: {', '.join(self._contexts())}."

    def _contexts(self) -> list[str]:
        limit = CONTEXT_STEP * (self.shape.max_position_embeddings // CONTEXT_STEP)
        short = [f"{tokens:,} on {gb} GB" for gb, tokens in self.context_by_gb.items() if 0 < tokens < limit]
        enough = next((gb for gb, tokens in self.context_by_gb.items() if tokens == limit), None)
        return short if enough is None else [*short, f"{limit:,} (all) from {enough} GB"]

    def row(self) -> tuple[str, ...]:
        """Its line in docs/models.md."""
        contexts = (f"{tokens:,}" if tokens else "–" for tokens in self.context_by_gb.values())
        peak = f"{self.prediction.peak_bytes / GIB:.1f}"
        return f"`{self.name}`", f"{self.settings.context:,}", peak, f"{self.card_gb} GB", *contexts


def planned(name: str, cfg: Config) -> Planned:
    """The plan of a preset's settings on a GPU, the longest prompt that they allow assumed."""
    shape, settings = find_shape(cfg.model.source), gpu_settings(cfg)
    steps = range(CONTEXT_STEP, shape.max_position_embeddings + 1, CONTEXT_STEP)
    contexts = [context for context in steps if context > settings.prompt_tokens]

    def longest_within(size_bytes: int) -> int:
        def peak_bytes(context: int) -> int:
            return at_context(cfg, shape, context, at_once=1).peak_bytes

        count = bisect.bisect_right(contexts, size_bytes, key=peak_bytes)
        return contexts[count - 1] if count else 0

    prediction = at_context(cfg, shape, settings.context, at_once=settings.completions)
    return Planned(name, shape, settings, prediction, {gb: longest_within(CARD_BYTES[gb]) for gb in SHOWN})


def at_context(cfg: Config, shape: Shape, context: int, *, at_once: int) -> Prediction:
    """The rows of `cfg` when prompt and completion have `context` tokens, with a cache for `at_once` completions."""
    settings = with_context(gpu_settings(cfg), context)
    choice = replace(choice_of(memory_settings(cfg, shape), settings), kv_sequences=at_once)
    return predict(shape, settings, choice)


def on_a_gpu(cfg: Config) -> ResolvedTraining:
    """What the settings mean on a GPU that computes in bfloat16."""
    assert cfg.rollout.sampler == "vllm", "a QLoRA preset samples with vLLM"
    assert cfg.memory.tile_rows is not None, "a QLoRA preset recomputes its layers in tiles"
    dtype = "bfloat16" if cfg.compute.dtype == "auto" else cfg.compute.dtype
    cfg = cfg.model_copy(update={"compute": cfg.compute.model_copy(update={"dtype": dtype})})
    return resolve_training(cfg, device=torch.device("cuda"))


def gpu_settings(cfg: Config) -> PlanSettings:
    """What the settings ask of a GPU, whatever the host has."""
    per_prompt = cfg.grpo.completions_per_prompt
    settings = training_settings(
        cfg, on_a_gpu(cfg), prompt_tokens=cfg.prepare.max_prompt_tokens, completions=per_prompt,
        at_once=per_prompt * cfg.grpo.prompts_per_step, has_reference=cfg.grpo.beta > 0.0,
    )  # fmt: skip
    return replace(settings, host_bytes=None)


def memory_settings(cfg: Config, shape: Shape) -> RunSettings:
    """What params.yaml says of memory, on a GPU."""
    completions = cfg.grpo.completions_per_prompt * cfg.grpo.prompts_per_step
    return run_settings(cfg, on_a_gpu(cfg), shape, minibatch=completions // cfg.grpo.minibatches_per_rollout)


def all_planned() -> list[Planned]:
    """Every preset with weights in 4 bits, smallest model first."""
    params = PARAMS_FILE.read_text(encoding="utf-8")
    configs = {name: check_config(presets.with_preset(params, name), name) for name in presets.names()}
    found = [planned(name, cfg) for name, cfg in configs.items() if cfg.model.quantization != "none"]
    return sorted(found, key=lambda one: one.shape.parameters())


def with_lines(text: str, one: Planned) -> str:
    """A preset's file with what the plan says after its first line."""
    first, *rest = text.splitlines(keepends=True)
    kept = [line for line in rest if not line.startswith((f"# {FITS}", f"# {LONGEST}"))]
    return "".join([first, *(f"# {line}\n" for line in one.lines()), *kept])


def with_table(text: str, found: list[Planned]) -> str:
    """docs/models.md with its table between MARKS. Raises ValueError where the marks are missing."""
    header = ("preset", "tokens", "peak, GiB", "card", *(f"{gb} GB" for gb in SHOWN))
    table = Grid("", header, tuple(one.row() for one in found)).markdown()
    before, start, rest = text.partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not start or not end:
        raise ValueError(f"{PAGE} must hold {MARKS[0].strip()} and {MARKS[1]}")
    return f"{before}{start}{table}\n{end}{after}"


if __name__ == "__main__":
    plans = all_planned()
    for one in plans:
        file = presets.FOLDER / f"{one.name}.yaml"
        file.write_text(with_lines(file.read_text(encoding="utf-8"), one), encoding="utf-8")
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), plans), encoding="utf-8")
