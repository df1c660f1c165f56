"""Completions per second through the scorer of a run: the verifier `number` and the GSM8K preset's rewards, one core.

python benchmarks/rewards.py
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

from ruamel.yaml import YAML

from recipe import RESULTS, ROOT, write_result
from rlvr.chat import TAGS, Tags
from rlvr.config import Config
from rlvr.rewards import Scorer, open_scorer
from rlvr.types import Answered, Problem
from rlvr.verifiers.number import numerals, reading

COMPLETIONS, GROUP = 20_000, 8
ROUNDS = 5
STEPS = (
    "First, {a} boxes hold {b} pencils each, so there are {a} * {b} = {c} pencils in the shop this morning. ",
    "Then {a} of them are sold before noon, which leaves {c} - {a} = {d} for the afternoon and the evening. ",
    "Every child pays ${b} for a ticket, and {a} children come along, so together they pay {a} x ${b} = ${c}. ",
    "Half of the {c} apples are red, the others are green, and {b} of those are given to the neighbour's horse. ",
)
# how often each form of completion comes, and whether its answer is the gold
FORMS = (
    ("well-formed, right", 0.5),
    ("well-formed, wrong", 0.2),
    ("words around", 0.1),
    ("cut off", 0.1),
    ("no tags", 0.1),
)


CompletionGroup = tuple[Problem, list[Answered]]


def completions(tags: Tags, rng: random.Random) -> list[CompletionGroup]:
    """Groups of texts of about 150 to 250 tokens: four characters or less a token."""
    return [_group(i, tags, rng) for i in range(COMPLETIONS // GROUP)]


def _group(i: int, tags: Tags, rng: random.Random) -> CompletionGroup:
    gold = rng.randrange(2, 5000)
    texts = [_completion(gold, tags, rng) for _ in range(GROUP)]
    return Problem(f"gsm8k-{i}", "How many?", f"{gold}", "", 3), [Answered(text, 200, False) for text in texts]


def _completion(gold: int, tags: Tags, rng: random.Random) -> str:
    reasoning = "".join(
        rng.choice(STEPS).format(
            a=rng.randrange(2, 40), b=rng.randrange(2, 90), c=rng.randrange(900), d=rng.randrange(97)
        )
        for _ in range(rng.randrange(5, 9))
    )
    form = rng.choices([name for name, _ in FORMS], [share for _, share in FORMS])[0]
    stated = {"well-formed, wrong": f"{gold + 1}", "words around": f"{gold:,} pencils"}.get(form, f"{gold}")
    text = f"{tags.reasoning_start}{reasoning}{tags.reasoning_end}{tags.answer_start}{stated}{tags.answer_end}"
    if form == "cut off":
        return text[: len(text) // 2]
    return f"{reasoning} The answer is {stated}." if form == "no tags" else text


def fastest_seconds(work: Callable[[], Any]) -> float:
    """Seconds of processor time: other work may run at the same time."""
    seconds = []
    for _ in range(ROUNDS):
        started = time.process_time()
        work()
        seconds.append(time.process_time() - started)
    return min(seconds)


def main() -> None:
    params, preset = (
        YAML(typ="safe", pure=True).load((ROOT / file).read_text(encoding="utf-8"))
        for file in ("params.yaml", "presets/smollm2-135m-gsm8k.yaml")
    )
    cfg = Config.model_validate(params | {"rewards": preset["rewards"]})
    runs = []
    for name, tags in TAGS.items():
        groups = completions(tags, random.Random(0))
        with open_scorer(cfg.rewards, cfg.verifiers, tags) as scorer:

            def score(groups: list[CompletionGroup] = groups, scorer: Scorer = scorer) -> None:
                reading._read.cache_clear()  # each round is the first time that these texts are seen
                numerals.decimal.cache_clear()
                for problem, answered in groups:
                    scorer.submit(problem, answered)
                scorer.finish()

            seconds = fastest_seconds(score)
        characters = sum(len(one.text) for _, answered in groups for one in answered) / COMPLETIONS
        rate = {
            "completions_per_second": round(COMPLETIONS / seconds),
            "microseconds_each": round(seconds / COMPLETIONS * 1e6, 1),
        }
        runs.append({"tags": name, "rubric": list(cfg.rewards), "mean_characters": round(characters)} | rate)
        print(runs[-1], flush=True)
    write_result(RESULTS / "rewards.json", runs)


if __name__ == "__main__":
    main()
