"""Completions per second through the verifier `number` and the rewards of the GSM8K preset, on one core.

python benchmarks/rewards.py
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

from ruamel.yaml import YAML

from recipe import RESULTS, ROOT, write_result
from rlvr.chat import TAGS, Tags, read
from rlvr.rewards.functions import FUNCTIONS
from rlvr.rewards.sample import Sample
from rlvr.types import Problem
from rlvr.verifiers import number
from rlvr.verifiers.verdict import MISSING, wrong

COMPLETIONS = 20_000
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


def completions(tags: Tags, rng: random.Random) -> list[tuple[str, Problem]]:
    """Texts of about 150 to 250 tokens: four characters or less a token."""
    return [_completion(i, tags, rng) for i in range(COMPLETIONS)]


def _completion(i: int, tags: Tags, rng: random.Random) -> tuple[str, Problem]:
    gold = rng.randrange(2, 5000)
    reasoning = "".join(
        rng.choice(STEPS).format(a=rng.randrange(2, 40), b=rng.randrange(2, 90), c=rng.randrange(900), d=i % 97)
        for _ in range(rng.randrange(5, 9))
    )
    form = rng.choices([name for name, _ in FORMS], [share for _, share in FORMS])[0]
    stated = {"well-formed, wrong": f"{gold + 1}", "words around": f"{gold:,} pencils"}.get(form, f"{gold}")
    text = f"{tags.reasoning_start}{reasoning}{tags.reasoning_end}{tags.answer_start}{stated}{tags.answer_end}"
    if form == "cut off":
        text = text[: len(text) // 2]
    if form == "no tags":
        text = f"{reasoning} The answer is {stated}."
    return text, Problem(f"gsm8k-{i // 8}", "How many?", f"{gold}", "", 3)


def judged(text: str, problem: Problem, tags: Tags) -> Sample:
    """The sample with its verdict, its tags read once for both."""
    reading = read(text, tags)
    missing = reading.answer is None
    verdict = wrong(MISSING) if missing else number.judge(reading.answer, problem.answer, tolerance=0.0)
    sample = Sample(text, 200, is_truncated=False, problem=problem, tags=tags, verdict=verdict)
    vars(sample)["reading"] = reading  # where cached_property keeps it
    return sample


def fastest_seconds(work: Callable[[], Any]) -> float:
    """Seconds of processor time: others may be at work beside."""
    seconds = []
    for _ in range(ROUNDS):
        started = time.process_time()
        work()
        seconds.append(time.process_time() - started)
    return min(seconds)


def main() -> None:
    rubric = YAML(typ="safe", pure=True).load((ROOT / "presets/smollm2-135m-gsm8k.yaml").read_text())["rewards"]
    functions = [(name, FUNCTIONS[name], setting["options"]) for name, setting in rubric.items()]
    runs = []
    for name, tags in TAGS.items():
        made = completions(tags, random.Random(0))

        def score(made: list[tuple[str, Problem]] = made, tags: Tags = tags) -> None:
            number._read_short.cache_clear()  # each round is the first time that these texts are seen
            number._decimal.cache_clear()
            for text, problem in made:
                sample = judged(text, problem, tags)
                for _, function, options in functions:
                    function(sample, **options)

        seconds = fastest_seconds(score)
        characters = sum(len(text) for text, _ in made) / len(made)
        rate = {
            "completions_per_second": round(len(made) / seconds),
            "microseconds_each": round(seconds / len(made) * 1e6, 1),
        }
        runs.append({"tags": name, "rubric": list(rubric), "mean_characters": round(characters)} | rate)
        print(runs[-1], flush=True)
    write_result(RESULTS / "rewards.json", runs)


if __name__ == "__main__":
    main()
