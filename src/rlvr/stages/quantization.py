"""What `nf4-dynamic` keeps in 16 bits: chosen once, by the first stage that loads the model, and read by the others."""
# T tokens

from __future__ import annotations

import hashlib
import json
import shutil
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlvr.attention import PackedLayout
from rlvr.config import Config
from rlvr.memory.dynamic import choose
from rlvr.memory.quantized import decoder_linears
from rlvr.model.device import dtype_name
from rlvr.model.policy import load_policy, load_tokenizer
from rlvr.model.resolved import Resolved
from rlvr.model.source import Source
from rlvr.problems import tables
from rlvr.problems.draw import draw
from rlvr.runtime.progress import progress
from rlvr.stages.code import code_hash
from rlvr.stages.provenance import computing_versions, hash_files, write_json
from rlvr.types import UserError

FILE, MADE = Path("models/sft/quantization.json"), Path(".checkpoints/quantization")
TOKENS = 1024  # of calibration text


def decide(cfg: Config, resolved: Resolved) -> None:
    """Write FILE when `model.quantization` is nf4-dynamic: layer by layer its KL, its bytes and whether it is kept.

    A choice that the same code and versions made for the same model, settings and data is used again. Raises UserError.
    """
    if cfg.model.quantization != "nf4-dynamic":
        return
    inputs = cfg.digest("compute", "model"), hash_files(tables.FOLDER), code_hash("sft"), computing_versions()
    key = hashlib.sha256(json.dumps(inputs).encode()).hexdigest()
    choice = MADE / f"{key}.json"
    if not choice.exists():
        writing = choice.with_suffix(".writing")
        write_json(writing, _choice(cfg, resolved))
        writing.rename(choice)
    FILE.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(choice, FILE)
    print(f"nf4-dynamic: {_summary()}", flush=True)


def kept_layers(cfg: Config) -> list[str]:
    """The layers that stay out of 4 bits. Raises UserError when nf4-dynamic has not chosen yet."""
    if cfg.model.quantization != "nf4-dynamic":
        return []
    layers: list[str] = _read()["kept"]
    return layers


def precision(cfg: Config, resolved: Resolved) -> str:
    """The type of weights and activations, for cards and reports."""
    name = dtype_name(resolved.dtype)
    if not resolved.is_quantized:
        return name
    chosen = f" ({_summary()})" if cfg.model.quantization == "nf4-dynamic" else ""
    return f"{name}, frozen layers in {cfg.model.quantization}{chosen}"


def calibration(tokens: int, *, seed: int) -> list[tuple[int, ...]]:
    """Training prompts, each with its worked solution where there is one, up to `tokens` in all."""
    examples = tables.read_examples("train")
    texts: list[tuple[int, ...]] = []
    for prompt, target in draw(examples, len(examples), step=0, seed=seed):
        room = tokens - sum(map(len, texts))
        if room > 0:
            texts.append((*prompt, *target.tolist())[:room])
    return texts


def _choice(cfg: Config, resolved: Resolved) -> dict[str, Any]:
    source, device = Source.read(tables.BASE), resolved.device
    policy = load_policy(source, load_tokenizer(tables.BASE), device=torch.device("cpu"), dtype=resolved.dtype)
    texts = calibration(TOKENS, seed=cfg.compute.seed)
    token_T = torch.tensor([token for text in texts for token in text], device=device)
    position_T = torch.cat([torch.arange(len(text)) for text in texts]).to(device)
    layout = PackedLayout([], [len(text) for text in texts], [], device)
    passes = count(1)
    with progress("nf4-dynamic", len(decoder_linears(policy.model)) + 3) as show:  # before, in NF4, and as chosen

        def hidden() -> Tensor:
            states = policy.hidden_stream(token_T, position_T, layout)
            show(next(passes))
            return states

        choice = choose(policy.model, hidden, policy.logits, device=device, share=cfg.model.dynamic_share)
    sha256 = hashlib.sha256(json.dumps(texts).encode()).hexdigest()
    return choice.as_json() | {"calibration": {"texts": len(texts), "tokens": len(token_T), "sha256": sha256}}


def _summary() -> str:
    chosen = _read()
    return (
        f"{len(chosen['kept'])} of {len(chosen['candidates'])} layers as they were, "
        f"KL {chosen['kl_nf4']:.2g} -> {chosen['kl_chosen']:.2g} nats a token"
    )


def _read() -> dict[str, Any]:
    if not FILE.exists():
        raise UserError(f"{FILE} does not exist: the stage sft chooses what nf4-dynamic keeps; run `dvc repro` for it")
    chosen: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return chosen
