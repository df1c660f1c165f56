"""`rlvr serve`: a model behind vLLM's OpenAI-compatible server."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvr.chat import opening_of
from rlvr.commands.server import Served, command, curl, environment, serving_template, url, write_files
from rlvr.commands.which_model import Checkpoint, find
from rlvr.model.limits import read_config
from rlvr.model.policy import end_of_sequence_ids
from rlvr.model.source import Source
from rlvr.problems import tables
from rlvr.runtime.lifetime import run_group
from rlvr.runtime.messages import note
from rlvr.stages.begin import stage
from rlvr.stages.opening import check_sampler
from rlvr.stages.resolve import resolve
from rlvr.types import UserError

SECTIONS = ("compute", "model", "prepare", "rollout")
FILES = Path(".checkpoints/serve")
POLL_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """The arguments of the command. `name` None takes the name of the model's folder."""

    model: str | None
    name: str | None
    host: str
    port: int
    max_model_len: int | None
    cache_gib: int


def main(options: ServeOptions, extra: Sequence[str]) -> None:
    """Run the server until it is told to stop, then end all of its processes.

    Raises UserError if vLLM is missing or known not to work, the model cannot be found, or the server fails.
    """
    with stage("serve", SECTIONS) as params:
        checkpoint = find(params, options.model, FILES / "model")
        cfg = checkpoint.cfg
        if cfg.model.quantization == "nf4-dynamic":
            raise UserError(
                "vLLM cannot serve model.quantization nf4-dynamic, which leaves some layers in 16 bits: serve with "
                "none, on the weights in 16 bits, or with nf4, on another rounding; or ask it by `rlvr generate`"
            )
        with_vllm = cfg.model_copy(update={"rollout": cfg.rollout.model_copy(update={"sampler": "vllm"})})
        resolved = resolve(with_vllm)
        for text in check_sampler(with_vllm, resolved, checkpoint.source):
            note(text)
        template = serving_template(
            checkpoint.tokenizer,
            system_prompt=cfg.model.template.system_prompt,
            opening=opening_of(cfg.model.template, checkpoint.tokenizer).added,
            earlier=tables.read_earlier() if cfg.prepare.few_shot else (),
        )
        write_files(FILES, template, _eos_ids(checkpoint), cfg.rollout.temperature)
    served = _served(options, checkpoint, is_cuda=resolved.is_cuda)
    print(
        f"{checkpoint.name} as {served.name!r}, soon at {url(served)} (Ctrl-C ends it):\n  {curl(served)}", flush=True
    )
    threading.Thread(target=announce, args=(served,), daemon=True).start()
    code = run_group(command(served, FILES, extra), environment(served, os.environ))
    if code not in (0, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP):
        raise UserError(f"the server ended with code {code}; its last messages are above")


def announce(served: Served) -> None:
    """Wait until the server lists the model, then say that it is ready."""
    while not is_listed(served):
        time.sleep(POLL_SECONDS)
    print(f"ready: {url(served)}", flush=True)


def is_listed(served: Served) -> bool:
    """Whether a server at this address answers and has the model: another one's answer is not ours."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(served.host, served.host)
    try:
        with direct.open(f"http://{host}:{served.port}/v1/models", timeout=POLL_SECONDS) as reply:
            models = json.load(reply)["data"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return served.name in [model.get("id") for model in models]


def _served(options: ServeOptions, checkpoint: Checkpoint, *, is_cuda: bool) -> Served:
    model = checkpoint.cfg.model
    return Served(
        name=options.name or Path(checkpoint.name).name,
        base=checkpoint.source.name,
        revision=checkpoint.source.revision,
        tokenizer=checkpoint.tokenizer_folder,
        adapter=checkpoint.start if model.adapter == "lora" else None,
        rank=model.lora.rank,
        dtype=checkpoint.cfg.compute.dtype,
        is_nf4=model.quantization == "nf4",
        is_cuda=is_cuda,
        host=options.host,
        port=options.port,
        max_model_len=options.max_model_len,
        cache_gib=options.cache_gib,
    )


def _eos_ids(checkpoint: Checkpoint) -> tuple[int, ...]:
    """The ids that end a completion in training, read from the configuration files of the model."""
    return end_of_sequence_ids(_declared_end(checkpoint.source), checkpoint.tokenizer)


def _declared_end(source: Source) -> Any:
    """The end of sequence of the generation config, or of the model's config if there is none."""
    from transformers import GenerationConfig  # noqa: PLC0415

    revision = source.revision or "main"
    try:
        return GenerationConfig.from_pretrained(source.name, revision=revision).eos_token_id
    except (OSError, ValueError):  # there is none, or a damaged one, which the model is loaded without
        return read_config(source).eos_token_id
