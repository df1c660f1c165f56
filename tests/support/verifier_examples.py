"""At least three right and three wrong answers for every verifier; docs/rewards.md shows them."""

from __future__ import annotations

import json
from typing import Any, NamedTuple


class Examples(NamedTuple):
    """`right` and `wrong` are pairs of answer and gold."""

    options: dict[str, Any]
    right: list[tuple[str, str]]
    wrong: list[tuple[str, str]]


SCHEMA = '{"type": "object", "required": ["age"], "properties": {"age": {"type": "integer", "minimum": 0}}}'
QUERY = json.dumps(
    {
        "setup": "CREATE TABLE pets (name, age); INSERT INTO pets VALUES ('Rex', 3), ('Tom', 5)",
        "query": "SELECT name FROM pets WHERE age > 4",
        "ordered": False,
    }
)
DOUBLE = '[{"call": "double", "args": [4], "result": 8}, {"assert": "assert double(-1) == -2"}]'
ECHO = '[{"stdin": "hello", "stdout": "HELLO"}]'

EXAMPLES: dict[str, Examples] = {
    "exact": Examples(
        {},
        right=[("Paris", "Paris"), (" Paris\n", "Paris"), ("f(x)", "f(x)")],
        wrong=[("paris", "Paris"), ("Paris.", "Paris"), ("It is Paris", "Paris")],
    ),
    "text": Examples(
        {},
        right=[("the eiffel  tower.", "The Eiffel Tower"), ("“STRASSE”", "Straße"), ("'Yes!'", "yes")],
        wrong=[("Eiffel Tower", "The Eiffel Tower"), ("re-do", "redo"), ("Paris, France", "Paris")],
    ),
    "number": Examples(
        {"tolerance": 0.0},
        right=[
            ("1,234", "1234"),
            ("The answer is **$1 234.00**.", "1234"),
            ("\\boxed{\\frac{3}{4}}", "0.75"),
            ("1.2 × 10^3", "1200"),
            ("50%", "0.5"),
            ("−1½", "-1.5"),
        ],
        wrong=[
            ("1235", "1234"),
            ("1.234", "1234"),
            ("1,5", "1.5"),
            ("3 or 4", "4"),
            ("3.33...", "3.33"),
            ("more than 5", "5"),
        ],
    ),
    "choice": Examples(
        {},
        right=[("(b)", "B"), ("The answer is **B**.", "B"), ("B) Paris", "B"), ("\\boxed{B}", "B) Paris")],
        wrong=[("A or B", "B"), ("Because it is", "B"), ("C) Rome", "B"), ("AB", "B")],
    ),
    "math": Examples(
        {},
        right=[
            ("0.5", "\\frac{1}{2}"),
            ("\\{2, 1\\}", "\\{1, 2\\}"),
            ("(x+1)^2", "x^2+2x+1"),
            ("\\frac{\\sqrt{2}}{2}", "\\frac{1}{\\sqrt{2}}"),
        ],
        wrong=[("0.51", "\\frac{1}{2}"), ("(1, 2]", "[1, 2]"), ("x^2+1", "x^2+2x+1"), ("9**9**9**9", "1")],
    ),
    "json_schema": Examples(
        {},
        right=[('{"age": 3}', SCHEMA), ('```json\n{"age": 0}\n```', SCHEMA), ('{"age": 7, "name": "Tom"}', SCHEMA)],
        wrong=[('{"age": -1}', SCHEMA), ('{"age": "3"}', SCHEMA), ("{age: 3}", SCHEMA), ("{}", SCHEMA)],
    ),
    "pattern": Examples(
        {},
        right=[("2026-11-23", r"\d{4}-\d\d-\d\d"), ("abab", "(ab)+"), (" yes ", "yes|no")],
        wrong=[("23.11.2026", r"\d{4}-\d\d-\d\d"), ("aba", "(ab)+"), ("yes, no", "yes|no")],
    ),
    "python": Examples(
        {
            "kind": "bubblewrap",
            "wall_seconds": 4.0,
            "cpu_seconds": 4.0,
            "memory_mib": 512,
            "file_mib": 16,
            "processes": 32,
            "output_kib": 64,
        },
        right=[
            ("def double(x):\n    return 2 * x", DOUBLE),
            ("```python\ndouble = lambda x: x + x\n```", DOUBLE),
            ("print(input().upper())", ECHO),
        ],
        wrong=[("def double(x):\n    return 8", DOUBLE), ("print('hello')", ECHO), ("while True: pass", ECHO)],
    ),
    "sql": Examples(
        {},
        right=[
            ("SELECT name FROM pets WHERE age = 5", QUERY),
            ("select max(name) from pets", QUERY),
            ("SELECT name FROM pets ORDER BY age DESC LIMIT 1", QUERY),
        ],
        wrong=[
            ("SELECT name FROM pets", QUERY),
            ("SELECT * FROM pets WHERE age > 4", QUERY),
            ("DROP TABLE pets", QUERY),
        ],
    ),
}
