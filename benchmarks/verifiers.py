"""Verdicts per second of the isolated verifiers, through their pool of worker processes with 1 and 2 workers.

python benchmarks/verifiers.py
"""

from __future__ import annotations

import json
import time
from collections import Counter
from typing import Any

from recipe import RESULTS, write_result
from rlvr.verifiers import VERIFIERS
from rlvr.verifiers.verify import verdict_of
from rlvr.verifiers.workers.pool import Workers

MEMORY_BYTES = 2**30
SECONDS = 2.0  # the deadline of each
ROUNDS = 20
SETUP = "CREATE TABLE t (a INT, b TEXT); INSERT INTO t VALUES (1, 'x'), (2, 'y'), (3, 'y');"
TASK = json.dumps({"setup": SETUP, "query": "SELECT b, count(*) FROM t GROUP BY b", "ordered": False})
SCHEMA = json.dumps({"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]})

# gold and answers: about half of them right, no two rounds alike where {n} stands
MIXED: dict[str, list[tuple[str, str]]] = {
    "math": [
        ("{n}", "{n}"),
        ("{n}", "\\boxed{{{n}}}"),
        ("{n}", "${n}.0$"),
        ("{n}", "1{n}"),
        ("{n}", "the answer is {n}"),
        ("\\frac{{1}}{{{n}}}", "1/{n}"),
        ("\\frac{{1}}{{{n}}}", "\\dfrac{{2}}{{{n}}}"),
        ("\\frac{{\\sqrt{{{n}}}}}{{2}}", "\\sqrt{{{n}}}/2"),
        ("(1,{n}]", "(1, {n}]"),
        ("(1,{n}]", "[1, {n}]"),
        ("\\{{1,{n}\\}}", "{n}, 1"),
        ("x={n}", "{n}"),
        ("{n}x+2", "2+{n}x"),
        ("{n}x+2", "{n}x-2"),
        ("\\frac{{x^2-{n}^2}}{{x-{n}}}", "x+{n}"),
    ],
    "pattern": [(r"\d{{4}}-\d\d", "2024-{n}"), (r"[a-z]+\d+", "abc{n}"), (r"yes|no", "{n}")],
    "json_schema": [(SCHEMA, '{"age": 3}'), (SCHEMA, '{"age": "3"}'), (SCHEMA, "age: 3")],
    "sql": [(TASK, "SELECT b, sum(1) FROM t GROUP BY b"), (TASK, "SELECT b FROM t"), (TASK, "SELEC")],
}


def questions(name: str) -> list[tuple[str, str]]:
    if name in ("json_schema", "sql"):
        return MIXED[name] * (ROUNDS * 5)
    return [(gold.format(n=n), answer.format(n=n)) for n in range(10, 10 + ROUNDS) for gold, answer in MIXED[name]]


def measure(name: str, workers: int) -> dict[str, Any]:
    asked = questions(name)
    target = VERIFIERS[name].target
    with Workers(workers, memory_bytes=MEMORY_BYTES) as pool:
        first = [pool.submit(target, {"answer": "1", "gold": "1"}, seconds=SECONDS) for _ in range(20 * workers)]
        assert all(future.result() for future in first)  # every worker has loaded the module
        started = time.perf_counter()
        futures = [pool.submit(target, {"answer": answer, "gold": gold}, seconds=SECONDS) for gold, answer in asked]
        verdicts = [verdict_of(future.result()) for future in futures]
        seconds = time.perf_counter() - started
    outcomes = Counter(found.cause or found.outcome for found in verdicts)
    return {
        "verifier": name,
        "workers": workers,
        "verdicts": len(asked),
        "verdicts_per_second": round(len(asked) / seconds, 1),
        "outcomes": dict(outcomes),
    }


def main() -> None:
    runs = []
    for name in MIXED:
        for workers in (1, 2):
            runs.append(measure(name, workers))
            print(json.dumps(runs[-1]), flush=True)
    write_result(RESULTS / "verifiers.json", runs)


if __name__ == "__main__":
    main()
