"""Problems to tables: draw, check, render with the chat template, tokenize, write, and say so in a card."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlvr import scratch, source
from rlvr.chat import messages, render_prompt, render_target
from rlvr.prepared import write_table
from rlvr.source import Source, open_source
from rlvr.tasks import TASKS, Splits
from rlvr.tasks.splits import check_disjoint
from rlvr.tokens import check_round_trip, describe, target_end
from rlvr.types import Problem, UserError

if TYPE_CHECKING:
    from rlvr.config import Config


def prepare(cfg: Config, folder: Path, base: Path) -> dict[str, Any]:
    """Write the tables of every split to `folder` and a scratch model to `base`; return the card.

    Raises UserError for duplicates between splits and for prompts that are too long.
    """
    splits = TASKS[cfg.prepare.task](cfg.prepare, cfg.compute.seed)
    check_disjoint(splits)
    tokenizer = _tokenizer(cfg, splits, base)
    end = target_end(tokenizer)
    card: dict[str, Any] = {"splits": {}}
    for name, problems in splits.items():
        encoded = [_encode(cfg, tokenizer, end, problem) for problem in problems]
        longest = max(len(columns["prompt_tokens"]) for columns in encoded)
        if longest > cfg.prepare.max_prompt_tokens:
            raise UserError(
                f"the longest prompt of {name} has {longest} tokens, prepare.max_prompt_tokens is "
                f"{cfg.prepare.max_prompt_tokens}: raise it to {longest}"
            )
        path = folder / f"{name}.parquet"
        write_table(path, problems, encoded)
        card["splits"][name] = {
            "count": len(problems),
            "levels": {str(level): sum(p.level == level for p in problems) for level in {p.level for p in problems}},
            "prompt_tokens": _lengths([len(columns["prompt_tokens"]) for columns in encoded]),
            "target_tokens": _lengths([len(columns["target_tokens"]) for columns in encoded]),
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "examples": [{key: encoded[i][key] for key in ("prompt", "target")} for i in range(min(3, len(encoded)))],
        }
    too_long = max(s["target_tokens"]["max"] for s in card["splits"].values())
    if too_long > cfg.rollout.max_completion_tokens:
        raise UserError(
            f"a worked answer takes {too_long} tokens, rollout.max_completion_tokens is "
            f"{cfg.rollout.max_completion_tokens}: no completion could hold it; raise it"
        )
    card["vocabulary"] = len(tokenizer)
    card["tokenizer"] = describe(tokenizer, cfg.model.template.resolve())
    card["source"] = json.loads((base / source.FILE).read_text())
    card["chat_template"] = tokenizer.chat_template
    return card


def _tokenizer(cfg: Config, splits: Splits, base: Path) -> Any:
    if cfg.model.source == "scratch":
        tags = cfg.model.template.resolve()
        texts = [
            text for _, problems in splits.items() for p in problems for text in (p.question, render_target(p, tags))
        ]
        tokenizer = scratch.make_tokenizer([*texts, cfg.model.template.system_prompt or ""], tags)
        scratch.save_model(cfg, tokenizer, base)
        Source(str(base), None, None).write(base)
        return tokenizer
    return open_source(cfg.model, base, dtype=cfg.compute.dtype)[1]


def _encode(cfg: Config, tokenizer: Any, end: int, problem: Problem) -> dict[str, Any]:
    """Prompt and target as text and tokens. The target's tokens end with `end`."""
    template = cfg.model.template
    tags = template.resolve()
    prompt = render_prompt(tokenizer, problem.question, system_prompt=template.system_prompt, opening=template.opening)
    target = render_target(problem, tags)[len(template.opening) :]
    check_round_trip(tokenizer, target)
    return {
        "prompt": prompt,
        "prompt_tokens": tokenizer.encode(prompt, add_special_tokens=False),
        "target": target,
        "target_tokens": [*tokenizer.encode(target, add_special_tokens=False), end],
        "messages": messages(problem.question, template.system_prompt),
    }


def _lengths(counts: list[int]) -> dict[str, float]:
    return {"min": min(counts), "mean": sum(counts) / len(counts), "max": max(counts)}
