"""The command line: one command per stage of the pipeline, and tools around it."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from rlvr.plan.settings import Engine, Method, Quantization, Settings
from rlvr.types import Interrupted, OptimizerKind, UserError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="GRPO on one GPU as a reproducible pipeline. Run it with `snakemake --cores 1` or `dvc repro`; "
    "the commands below are its stages, which those two call.",
)
rewards = typer.Typer(no_args_is_help=True, help="Look at the rewards of params.yaml before any training.")
app.add_typer(rewards, name="rewards")


def _run(stage: str) -> None:
    importlib.import_module(f"rlvr.stages.{stage}").main()


@app.command()
def check() -> None:
    """Check params.yaml, say what is wrong with it, and what in it is unlikely to work."""
    from rlvr.config import load_config  # noqa: PLC0415
    from rlvr.config.advice import advice  # noqa: PLC0415
    from rlvr.runtime.messages import note  # noqa: PLC0415

    cfg = load_config()
    print("params.yaml is fine")
    for text in advice(cfg, cfg.prepare.train_problems, pre_finetuned=cfg.sft.enabled):
        note(text)


@app.command()
def preset(
    name: Annotated[str | None, typer.Argument(help="The preset to write into params.yaml.")] = None,
    show_list: Annotated[bool, typer.Option("--list", help="Say which presets there are.")] = False,
    diff: Annotated[bool, typer.Option("--diff", help="Only show what would change.")] = False,
) -> None:
    """Write a preset's settings into params.yaml; comments stay."""
    from rlvr.config import (  # noqa: PLC0415
        PARAMS_FILE,
        check_config,
        presets,
    )

    if show_list or name is None:
        width = max(map(len, presets.names()), default=0)
        print("\n".join(f"{known:<{width}}  {what}" for known, what in presets.names().items()))
        return
    before = PARAMS_FILE.read_text()
    after = presets.with_preset(before, name)
    check_config(after, f"presets/{name}.yaml")
    print("\n".join(presets.changes(before, after) or ["nothing changes"]))
    if not diff:
        writing = PARAMS_FILE.with_suffix(".writing")
        writing.write_text(after)
        writing.rename(PARAMS_FILE)
        print("\n".join(["", *presets.header(name), "Run it: snakemake --cores 1"]))


@app.command()
def deps() -> None:
    """Write each stage's code dependencies into dvc.yaml, read from what the source imports."""
    from rlvr.commands import deps as command  # noqa: PLC0415

    command.main()


@rewards.command("try")
def try_rewards(
    file: Annotated[Path, typer.Argument(help="A .jsonl, .csv or .parquet file with a column completion.")],
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many completions.")] = None,
) -> None:
    """Score a file of completions, each with the id or the question of a prepared problem, or its own answer."""
    from rlvr.commands import rewards  # noqa: PLC0415

    rewards.try_file(file, limit)


@rewards.command()
def doctor(
    problems: Annotated[int, typer.Option(min=1, help="How many of the training problems to take.")] = 8,
) -> None:
    """Say what the rewards accept that they should not: they score completions that are made to fool them."""
    from rlvr.commands import rewards  # noqa: PLC0415

    if not rewards.doctor(problems):
        sys.exit(1)


@app.command()
def plan(
    model: Annotated[str | None, typer.Argument(help="A shape, a hub name or a folder; all shapes without.")] = None,
    card: Annotated[str | None, typer.Option(help="For example H100, 4090, T4; the common ones without.")] = None,
    vram_gib: Annotated[float | None, typer.Option(help="A card by its memory, instead of --card.")] = None,
    context: Annotated[int | None, typer.Option(help="Tokens of a sequence; the longest that fits without.")] = None,
    prompt: Annotated[int, typer.Option(help="Tokens of the prompt among them.")] = 512,
    completions: Annotated[int, typer.Option(help="Completions for each prompt.")] = 8,
    method: Annotated[Method, typer.Option(help="What is trained.")] = "lora",
    quantization: Annotated[Quantization, typer.Option(help="Of the frozen weights.")] = "nf4",
    rank: Annotated[int, typer.Option(help="Of the adapter.")] = 32,
    optimizer: Annotated[OptimizerKind, typer.Option(help="Its states in 32 or 8 bits.")] = "adamw_8bit",
    engine: Annotated[Engine, typer.Option(help="What samples.")] = "native",
    share_weights: Annotated[bool, typer.Option(help="The engine samples with the trainer's weights.")] = True,
    fp8_cache: Annotated[bool, typer.Option(help="The engine vllm keeps keys and values in 8 bits.")] = False,
    reference: Annotated[bool, typer.Option(help="Keep a reference policy (grpo.beta above 0).")] = False,
    host_gib: Annotated[float | None, typer.Option(help="Memory of the host, to stay within.")] = None,
) -> None:
    """Say which run fits on which card, from a model's shape alone: no GPU, nothing is downloaded."""
    from rlvr.plan import command  # noqa: PLC0415

    settings = Settings(
        method=method, quantization=quantization, rank=rank, weight_bytes=2, optimizer=optimizer, kept_share=0.0,
        states_on_host=None, completions=completions, completions_per_step=completions, prompt_tokens=prompt,
        completion_tokens=1, has_reference=reference, engine=engine, shares_weights=share_weights,
        has_fp8_cache=fp8_cache, recompute="tiles", is_cuda=True,
        host_bytes=round(host_gib * 2**30) if host_gib else None,
    )  # fmt: skip
    if not command.show(model, command.card_named(card, vram_gib), context, settings):
        sys.exit(1)


@app.command()
def generate(
    question: Annotated[
        str | None, typer.Argument(help="What to ask; without it and --file, held-out problems.")
    ] = None,
    file: Annotated[Path | None, typer.Option(help="Questions: a table (.csv, .jsonl, .parquet), or lines.")] = None,
    column: Annotated[str, typer.Option(help="The table's column with the question.")] = "question",
    model: Annotated[str | None, typer.Option(help="A folder, an adapter's folder, a hub name, or base.")] = None,
    n: Annotated[int, typer.Option(min=1, help="Answers to each question.")] = 1,
    temperature: Annotated[float | None, typer.Option(min=0.0, help="0: the likeliest token.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Of an answer.")] = None,
    sampler: Annotated[Literal["native", "vllm"] | None, typer.Option(help="Without: as params.yaml says.")] = None,
    seed: Annotated[int | None, typer.Option(help="Another one, other answers.")] = None,
    plain: Annotated[bool, typer.Option(help="No system prompt, worked examples or opening tag.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write JSON lines to this file.")] = None,
) -> None:
    """Ask a model: the last that the pipeline trained, or --model. In a pipe, one JSON object for each answer."""
    from rlvr.commands import generate as command  # noqa: PLC0415

    command.main(
        command.Request(
            question=question, file=file, column=column, model=model, completions=n, sampler=sampler,
            temperature=temperature, max_tokens=max_tokens, seed=seed, is_plain=plain, out=out,
        )
    )  # fmt: skip


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def serve(
    extra: typer.Context,
    model: Annotated[str | None, typer.Option(help="As for generate; without, the last that was trained.")] = None,
    name: Annotated[str | None, typer.Option(help="What clients call it; without, its folder's name.")] = None,
    host: Annotated[str, typer.Option(help="0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Of the server.")] = 8000,
    max_model_len: Annotated[int | None, typer.Option(min=1, help="Tokens; without, as many as fit.")] = None,
    cache_gib: Annotated[int, typer.Option(min=1, help="For keys and values, on a CPU.")] = 1,
) -> None:
    """Serve a model with vLLM as OpenAI's API; arguments not listed here go to `vllm serve`."""
    from rlvr.commands import serve as command  # noqa: PLC0415

    command.main(
        command.ServeOptions(
            model=model, name=name, host=host, port=port, max_model_len=max_model_len, cache_gib=cache_gib
        ),
        extra.args,
    )  # fmt: skip


@app.command()
def prepare() -> None:
    """Stage: make the problems, tables, tokenizer and the scratch model."""
    _run("prepare")


@app.command()
def sft() -> None:
    """Stage: format pre-finetune."""
    _run("sft")


@app.command()
def grpo() -> None:
    """Stage: GRPO."""
    _run("grpo")


@app.command()
def evaluate() -> None:
    """Stage: held-out evaluation of the base, pre-finetuned and GRPO models."""
    _run("evaluate")


@app.command()
def report() -> None:
    """Stage: the HTML report, figures and tables."""
    _run("report")


def main() -> None:
    """Run the command line; what the user can mend is one message, not a traceback."""
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except Interrupted as error:
        print(f"{error}. The same command goes on from there.", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
