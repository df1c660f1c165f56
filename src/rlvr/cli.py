"""The command line: a command for each stage of the pipeline, and tools for the rest."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from rlvr.plan.settings import Engine, Method, PlanSettings, Quantization
from rlvr.runtime.machine import bound_memory, explain, speak_utf8
from rlvr.types import Interrupted, OptimizerKind, UserError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="GRPO on one machine as a reproducible pipeline. Run it with `snakemake --cores 1` or `dvc repro`, "
    "which call the stages below.",
)
rewards = typer.Typer(no_args_is_help=True, help="Try the rewards of params.yaml before training.")
app.add_typer(rewards, name="rewards")
runs = typer.Typer(invoke_without_command=True, help="List the training runs that are kept, or delete some.")
app.add_typer(runs, name="runs")


def _run(stage: str) -> None:
    importlib.import_module(f"rlvr.stages.{stage}").main()


@app.command()
def check(
    data: Annotated[
        bool, typer.Option("--data", help="Data too: read the table, judge its answers, count rows and prompt tokens.")
    ] = False,
) -> None:
    """Check params.yaml for errors and for settings that are unlikely to work."""
    from rlvr.config import load_config  # noqa: PLC0415
    from rlvr.config.advice import advice, evaluation_advice, sft_advice  # noqa: PLC0415
    from rlvr.problems.draw import num_steps  # noqa: PLC0415
    from rlvr.rewards.probe import check_functions  # noqa: PLC0415
    from rlvr.runtime.messages import note, warn  # noqa: PLC0415
    from rlvr.tasks.source import check_local  # noqa: PLC0415

    cfg = load_config()
    check_functions(cfg.rewards, cfg.verifiers)
    check_local(cfg.prepare)
    print("params.yaml is fine")
    if (text := _unusable_device(cfg.compute.device)) is not None:
        warn(text)
    problems = cfg.prepare.train_problems
    steps = cfg.grpo.steps if problems is None else num_steps(cfg.grpo, problems)
    notes = advice(cfg, problems, steps=steps, pre_finetuned=cfg.sft.enabled)
    for text in [*notes, *sft_advice(cfg), *evaluation_advice(cfg)]:
        note(text)
    if data:
        from rlvr.commands import check_data  # noqa: PLC0415

        check_data.main(cfg)


def _unusable_device(setting: str) -> str | None:
    """Why torch cannot use this `compute.device` here; None if it can. Others than auto and cpu cost a torch import."""
    if setting in ("auto", "cpu"):
        return None
    from rlvr.model.device import device_named  # noqa: PLC0415

    try:
        device_named(setting)
    except UserError as error:
        return str(error)
    return None


@app.command()
def preset(
    name: Annotated[str | None, typer.Argument(help="Preset to write into params.yaml.")] = None,
    show_list: Annotated[bool, typer.Option("--list", help="List the presets.")] = False,
    diff: Annotated[bool, typer.Option("--diff", help="Show the changes without writing them.")] = False,
) -> None:
    """Write the settings of a preset into params.yaml and keep its comments."""
    from rlvr.config import (  # noqa: PLC0415
        PARAMS_FILE,
        check_config,
        presets,
        read_params,
    )

    if show_list or name is None:
        width = max(map(len, presets.names()), default=0)
        print("\n".join(f"{known:<{width}}  {what}" for known, what in presets.names().items()))
        return
    before = read_params()
    after = presets.with_preset(before, name)
    check_config(after, f"presets/{name}.yaml")
    print("\n".join(presets.changes(before, after) or ["nothing changes"]))
    if not diff:
        writing = PARAMS_FILE.with_suffix(".writing")
        writing.write_text(after, encoding="utf-8")
        writing.rename(PARAMS_FILE)
        print("\n".join(["", *presets.header(name), "Run it: snakemake --cores 1"]))


@app.command()
def deps() -> None:
    """Write the code dependencies of each stage into dvc.yaml, as found from imports."""
    from rlvr.commands import deps as command  # noqa: PLC0415

    command.main()


@runs.callback()
def list_runs(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        from rlvr.commands import runs as command  # noqa: PLC0415
        from rlvr.config import load_config  # noqa: PLC0415

        command.show(load_config())


@runs.command("delete")
def delete_runs(names: Annotated[list[str], typer.Argument(help="Runs to delete, as `rlvr runs` names them.")]) -> None:
    """Delete runs that are kept: they can no longer be continued."""
    from rlvr.commands import runs as command  # noqa: PLC0415

    command.remove(names)


@rewards.command("try")
def try_rewards(
    file: Annotated[
        Path, typer.Argument(help="File of completions (.jsonl, .csv or .parquet) with a column `completion`.")
    ],
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Number of completions to score, from the start of the file (default: all)."),
    ] = None,
) -> None:
    """Score a file of completions. A row has the id or question of a prepared problem, or its own answer."""
    from rlvr.commands import rewards  # noqa: PLC0415

    if not rewards.try_file(file, limit):
        sys.exit(1)


@rewards.command()
def doctor(
    problems: Annotated[int, typer.Option(min=1, help="Number of training problems to use.")] = 8,
) -> None:
    """Score completions that are written to fool the rewards, and report those that are accepted."""
    from rlvr.commands import rewards  # noqa: PLC0415

    if not rewards.doctor(problems):
        sys.exit(1)


@app.command()
def plan(
    model: Annotated[
        str | None,
        typer.Argument(help="Model to plan for: a shape name, a hub name or a folder (default: every known shape)."),
    ] = None,
    card: Annotated[
        str | None, typer.Option(help="Card to plan for, such as H100, 4090 or T4 (default: the common cards).")
    ] = None,
    vram_gib: Annotated[float | None, typer.Option(help="Memory of the card in GiB, instead of --card.")] = None,
    context: Annotated[int | None, typer.Option(help="Tokens in a sequence (default: the longest that fits).")] = None,
    prompt: Annotated[int, typer.Option(help="Tokens of the prompt within the sequence.")] = 512,
    completions: Annotated[int, typer.Option(help="Completions per prompt.")] = 8,
    method: Annotated[Method, typer.Option(help="Weights to train: an adapter or all of them.")] = "lora",
    quantization: Annotated[Quantization, typer.Option(help="Quantization of the frozen weights.")] = "nf4",
    rank: Annotated[int, typer.Option(help="Rank of the adapter.")] = 32,
    optimizer: Annotated[OptimizerKind, typer.Option(help="Optimizer, with states in 32 or 8 bits.")] = "adamw_8bit",
    engine: Annotated[Engine, typer.Option(help="Sampling engine.")] = "native",
    share_weights: Annotated[
        bool, typer.Option(help="One copy of the weights for trainer and sampling engine.")
    ] = True,
    fp8_cache: Annotated[bool, typer.Option(help="KV cache in 8 bits (vllm only).")] = False,
    reference: Annotated[bool, typer.Option(help="Reference policy in memory (grpo.beta above 0).")] = False,
    host_gib: Annotated[float | None, typer.Option(help="Limit of host memory in GiB.")] = None,
) -> None:
    """Show which runs fit on which card, computed from a model's shape. Needs no GPU and downloads no weights."""
    from rlvr.plan import command  # noqa: PLC0415

    settings = PlanSettings(
        method=method, quantization=quantization, rank=rank, weight_bytes=4 if method == "full" else 2,
        optimizer=optimizer, kept_share=0.0, states_on_host=None, completions=completions,
        completions_per_step=completions, prompt_tokens=prompt,
        completion_tokens=1, has_reference=reference, engine=engine, shares_weights=share_weights,
        has_fp8_cache=fp8_cache, recompute="tiles", is_cuda=True,
        host_bytes=round(host_gib * 2**30) if host_gib else None,
    )  # fmt: skip
    if not command.show(model, command.card_named(card, vram_gib), context, settings):
        sys.exit(1)


@app.command()
def generate(
    question: Annotated[str | None, typer.Argument(help="Question to ask (default: some held-out problems).")] = None,
    file: Annotated[
        Path | None, typer.Option(help="File of questions: a table (.csv, .jsonl, .parquet), or one per line.")
    ] = None,
    column: Annotated[str, typer.Option(help="Column of the table that holds the question.")] = "question",
    model: Annotated[
        str | None,
        typer.Option(
            help="Model to ask: a folder of weights or of an adapter, a hub name, or base (default: the last trained)."
        ),
    ] = None,
    n: Annotated[int, typer.Option(min=1, help="Answers per question.")] = 1,
    temperature: Annotated[
        float | None,
        typer.Option(min=0.0, help="Sampling temperature; 0 picks the likeliest token (default: rollout.temperature)."),
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Maximum tokens per answer.")] = None,
    sampler: Annotated[
        Literal["native", "vllm"] | None, typer.Option(help="Sampling engine (default: rollout.sampler).")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Sampling seed (default: compute.seed).")] = None,
    plain: Annotated[
        bool, typer.Option(help="Bare questions: no system prompt, worked examples or opening tag.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="File for the answers as JSON lines.")] = None,
) -> None:
    """Ask a model: the last one trained, or --model. In a pipe, each answer is one line of JSON."""
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
    model: Annotated[
        str | None, typer.Option(help="Model to serve, named as for generate (default: the last trained).")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name that clients use (default: the name of its folder).")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 accepts other machines.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
    max_model_len: Annotated[
        int | None, typer.Option(min=1, help="Maximum tokens of a sequence (default: as many as fit).")
    ] = None,
    cache_gib: Annotated[int, typer.Option(min=1, help="Size of the KV cache in GiB, on a CPU.")] = 1,
) -> None:
    """Serve a model with vLLM behind an OpenAI-compatible API. Other arguments are passed to `vllm serve`."""
    from rlvr.commands import serve as command  # noqa: PLC0415

    command.main(
        command.ServeOptions(
            model=model, name=name, host=host, port=port, max_model_len=max_model_len, cache_gib=cache_gib
        ),
        extra.args,
    )  # fmt: skip


@app.command()
def prepare() -> None:
    """Stage: prepare problems, tables, tokenizer and the scratch model."""
    _run("prepare")


@app.command()
def sft() -> None:
    """Stage: format pre-finetune."""
    _run("sft")


@app.command()
def grpo() -> None:
    """Stage: GRPO training."""
    _run("grpo")


@app.command()
def evaluate() -> None:
    """Stage: evaluate the base, pre-finetuned and GRPO models on held-out problems."""
    _run("evaluate")


@app.command()
def report() -> None:
    """Stage: write the HTML report with its figures and tables."""
    _run("report")


def main() -> None:
    """Run the command line. An error that the user can fix prints as one message, without a traceback."""
    speak_utf8()
    bound_memory()
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except Interrupted as error:
        print(f"{error}. Run the same command again to resume.", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if (text := explain(error)) is None:
            raise
        print(f"error: {text}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
