"""From problems to tables: draw, check, render with the chat template, tokenize, write, and describe in a card."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlvr.chat import Message, messages, opening_of, render_prompt, render_target, tags_of, turns
from rlvr.model import scratch, source
from rlvr.model.source import Source, open_source
from rlvr.model.tokenizer import check_round_trip, describe, target_end
from rlvr.problems.selection import Split, TokenLimits, select, set_aside, split_sizes
from rlvr.problems.tables import write_table
from rlvr.runtime.messages import warn
from rlvr.tasks import TASKS
from rlvr.types import Problem, UserError

if TYPE_CHECKING:
    from rlvr.config import Config


def prepare(cfg: Config, folder: Path, base: Path) -> dict[str, Any]:
    """Write the tables of every split to `folder` and a scratch model to `base`; return the card.

    Raises UserError for data that cannot be read, and if too few problems are left.
    """
    pools = TASKS[cfg.prepare.task](cfg.prepare, cfg.compute.seed)
    tokenizer = _tokenizer(cfg, pools.problems(), base)
    limits = TokenLimits(
        prompt_tokens=cfg.prepare.max_prompt_tokens,
        completion_tokens=cfg.rollout.max_completion_tokens,
        truncate=cfg.prepare.long_prompts == "truncate",
    )
    examples, pools = set_aside(pools, cfg.prepare.few_shot)
    encode = partial(_encode, cfg, tokenizer, target_end(tokenizer), _earlier(cfg, tokenizer, examples))
    splits = select(pools, split_sizes(cfg.prepare), encode, limits, examples)
    card: dict[str, Any] = {"origin": pools.origin, "few_shot": [p.id for p in examples], "splits": {}}
    for name, split in splits.items():
        path = folder / f"{name}.parquet"
        write_table(path, split.rows)
        card["splits"][name] = _card_of(split) | {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        if name == "sft":
            check_round_trip(tokenizer, split.rows[0][1]["target"])
        if split.left_out or split.truncated:
            print(f"{name}: {split.truncated} questions cut; left out: {split.reasons() or 'none'}")
    card["vocabulary"] = len(tokenizer)
    card["tokenizer"] = describe(tokenizer, tags_of(cfg.model.template))
    card["source"] = json.loads((base / source.FILE).read_text())
    if (revision := card["source"]["revision"]) not in (None, cfg.model.revision):
        warn(f"model.revision is {cfg.model.revision}, so the newest commit {revision} was used; write it there")
    card["chat_template"] = tokenizer.chat_template
    return card


def _card_of(split: Split) -> dict[str, Any]:
    levels = Counter(problem.level for problem, _ in split.rows)
    columns = [columns for _, columns in split.rows]
    return {
        "count": len(columns),
        "left_out": dict(split.left_out),
        "truncated": split.truncated,
        "levels": {str(level): count for level, count in levels.items()},
        "prompt_tokens": _lengths([len(c["prompt_tokens"]) for c in columns]),
        "target_tokens": _lengths([len(c["target_tokens"]) for c in columns]),
        "examples": [{key: c[key] for key in ("prompt", "target")} for c in columns[:3]],
    }


def _tokenizer(cfg: Config, problems: list[Problem], base: Path) -> Any:
    if cfg.model.source == "scratch":
        tags = tags_of(cfg.model.template)
        texts = [text for p in problems for text in (p.question, render_target(p, tags))]
        tokenizer = scratch.make_tokenizer([*texts, cfg.model.template.system_prompt or ""], tags)
        shape = scratch.ScratchShape(**cfg.model.scratch.model_dump())
        longest = cfg.prepare.max_prompt_tokens + cfg.rollout.max_completion_tokens
        scratch.save_model(shape, tokenizer, base, max_tokens=longest, seed=cfg.compute.seed)
        Source(str(base), None, None).write(base)
        return tokenizer
    return open_source(cfg.model.source, cfg.model.revision, base, dtype=cfg.compute.dtype)[1]


def _earlier(cfg: Config, tokenizer: Any, examples: list[Problem]) -> list[Message]:
    """The worked examples as turns of the chat. Raises UserError if the chat template changes them."""
    template = cfg.model.template
    earlier = turns(examples, tags_of(template))
    prompt = render_prompt(tokenizer, "", system_prompt=template.system_prompt, opening="", earlier=earlier)
    if not all(message["content"].strip() in prompt for message in earlier):
        raise UserError(
            f"prepare.few_shot {len(examples)}: the model's chat template rewrites earlier answers (some drop "
            "<think>...</think>). Use other model.template.tags, such as working_out, or few_shot 0"
        )
    return earlier


def _encode(cfg: Config, tokenizer: Any, end: int, earlier: list[Message], problem: Problem) -> dict[str, Any]:
    """Prompt and target as text and tokens. The target's tokens end with `end`.

    Without a worked solution the target is empty, since a target without reasoning would not be well-formed.
    """
    template = cfg.model.template
    tags = tags_of(template)
    prompt = render_prompt(
        tokenizer,
        problem.question,
        system_prompt=template.system_prompt,
        opening=opening_of(template),
        earlier=earlier,
    )
    target = render_target(problem, tags)[len(opening_of(template)) :] if problem.working else ""
    return {
        "prompt": prompt,
        "prompt_tokens": tokenizer.encode(prompt, add_special_tokens=False),
        "target": target,
        "target_tokens": [*tokenizer.encode(target, add_special_tokens=False), end] if target else [],
        "messages": messages(problem.question, template.system_prompt, earlier),
    }


def _lengths(counts: list[int]) -> dict[str, float]:
    return {"min": min(counts), "mean": sum(counts) / len(counts), "max": max(counts)}
