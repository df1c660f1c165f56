"""Three right and three wrong answers, at least, for every verifier: tested, and the table in docs/rewards.md."""

from __future__ import annotations

from typing import Any, NamedTuple


class Examples(NamedTuple):
    """`right` and `wrong` are pairs of answer and gold."""

    options: dict[str, Any]
    right: list[tuple[str, str]]
    wrong: list[tuple[str, str]]


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
}
