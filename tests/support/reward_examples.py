"""Three high and three low completions, or more, for every reward function: tested, and a table in docs/rewards.md."""

from __future__ import annotations

from typing import Any, NamedTuple

from rlvr.rewards.sample import Sample
from rlvr.verifiers.verdict import MISSING, TIMEOUT, WRONG, Verdict, wrong
from support.samples import sample_of, well_formed


class Scored(NamedTuple):
    """`shown` is the part of the completion that matters, for the table; `points` what the function must give."""

    sample: Sample
    points: float | None
    shown: str


class Examples(NamedTuple):
    """`high` and `low` earn more or less of what the function rewards."""

    options: dict[str, Any]
    high: list[Scored]
    low: list[Scored]


def answers(*pairs: tuple[str, float | None], **about: Any) -> list[Scored]:
    """Well-formed completions with these answers."""
    return [Scored(sample_of(well_formed(text), **about), points, text) for text, points in pairs]


def texts(*pairs: tuple[str, float | None], **about: Any) -> list[Scored]:
    return [Scored(sample_of(text, **about), points, text) for text, points in pairs]


def untagged(*pairs: tuple[str, float | None]) -> list[Scored]:
    """Completions without any tag."""
    return [Scored(sample_of(text), points, f"{text}, without tags") for text, points in pairs]


def reasoned(*pairs: tuple[str, float | None]) -> list[Scored]:
    """Well-formed completions with this reasoning."""
    return [Scored(sample_of(well_formed("85", text)), points, text) for text, points in pairs]


def wrong_after(reasoning: str) -> list[Scored]:
    """A wrong answer after this reasoning."""
    return [Scored(sample_of(well_formed("86", reasoning)), 0.0, f"{reasoning}, and a wrong answer")]


def tested(compiles: int, runs: int, passed: int) -> Verdict:
    """The verdict on a program with four tests."""
    details = {"compiles": compiles, "runs": runs, "tests_passed": passed, "tests_total": 4}
    return Verdict("right" if passed == 4 else "wrong", details=details)


def programs(*cases: tuple[str, Verdict, float | None]) -> list[Scored]:
    """Programs with these verdicts."""
    return [Scored(sample_of(well_formed("..."), verdict=verdict), points, what) for what, verdict, points in cases]


def long(*pairs: tuple[int, float]) -> list[Scored]:
    """Completions of so many tokens."""
    return [
        Scored(sample_of(well_formed("85"), num_tokens=count), points, f"{count} tokens") for count, points in pairs
    ]


GOOD = "<think>because</think><answer>85</answer>"
BANDS = {
    "exact": 5.0,
    "stripped": 3.5,
    "within_10_percent": 2.0,
    "within_20_percent": 1.5,
    "wrong": -2.5,
    "not_a_number": -4.5,
    "missing": -2.0,
}
KEYWORDS = {"keywords": ["invoice", "Friday", "42 euros"]}
NAME = {"recipient": "Dr. Anna Keller"}

EXAMPLES: dict[str, Examples] = {
    "format_exact": Examples(
        {"points": 3.0},
        texts((GOOD, 3.0), (f"\n{GOOD} ", 3.0), ("<think>1</think>\n<answer>none</answer>", 3.0)),
        texts(("85", 0.0), (f"{GOOD}!", 0.0), ("<think></think><answer>85</answer>", 0.0)),
    ),
    "format_approximate": Examples(
        {"present": 0.5, "absent": -1.0},
        texts((GOOD, 2.0), ("</answer><answer></think><think>", 2.0), (f"well, {GOOD}", 2.0)),
        texts(("85", -4.0), ("<think>because", -2.5), (f"{GOOD}<think>", 0.5)),
    ),
    "soft_format": Examples(
        {"points": 0.5},
        texts((GOOD, 0.5), (f"Sure: {GOOD} Done.", 0.5), ("<think>1</think>\n\n<answer>2</answer>", 0.5)),
        texts(
            ("85", 0.0), ("<answer>85</answer><think>1</think>", 0.0), ("<think>1</think> so <answer>85</answer>", 0.0)
        ),
    ),
    "strict_format": Examples(
        {"points": 0.5},
        texts((GOOD, 0.5), (f"{GOOD}\n", 0.5), ("<think>\n1\n</think><answer>2</answer>", 0.5)),
        texts((f" {GOOD}", 0.0), ("<think>1</think>\n<answer>85</answer>", 0.0), (f"{GOOD}!", 0.0)),
    ),
    "tag_count": Examples(
        {"each": 0.125, "trailing_character": -0.001},
        texts((GOOD, 0.5), (f"{GOOD}\n", 0.5), (f"well, {GOOD}", 0.5)),
        texts(("85", 0.0), (f"{GOOD} done.", 0.495), ("<think>because", 0.125)),
    ),
    "answer": Examples(
        BANDS,
        answers(("85", 5.0), (" 85", 3.5), ("85.0", 3.5), ("85 apples", 3.5), ("80", 2.0), ("100", 1.5)),
        answers(("60", -2.5), ("-85", -2.5), ("many", -4.5), ("85 or 86", -4.5)) + untagged(("85", -2.0)),
    ),
    "number": Examples(
        {"right": 3.5, "wrong": -1.5, "missing": 0.0},
        answers(("85", 3.5), ("170/2", 3.5), ("it is 85, not 86", 3.5)) + texts(("so <answer>85", 3.5)),
        answers(("86 or 85", -1.5), ("many", 0.0)) + untagged(("85", 0.0)),
    ),
    "number_detected": Examples(
        {"present": 1.0, "absent": -1.0},
        answers(("85", 1.0), ("about -3.5 metres", 1.0)) + texts(("so <answer>7", 1.0)),
        answers(("many", -1.0), ("eighty-five", -1.0)) + untagged(("85", -1.0)),
    ),
    "number_matches": Examples(
        {"right": 3.0, "wrong": -3.0},
        answers(("85", 3.0), ("$85.00", 3.0), ("170/2", 3.0)),
        answers(("86", -3.0), ("85 or 86", -3.0)) + untagged(("85", -3.0)),
    ),
    "correctness": Examples(
        {"right": 2.0},
        answers(("85", 2.0), ("85.0", 2.0), ("x = 85", 2.0)),
        answers(("86", 0.0), ("many", 0.0)) + untagged(("85", 0.0)),
    ),
    "is_integer": Examples(
        {"points": 0.5},
        answers(("85", 0.5), ("-3", 0.5), (" 7\n", 0.5)),
        answers(("85.0", 0.0), ("85 apples", 0.0), ("many", 0.0)),
    ),
    "proximity_smooth": Examples(
        {"top": 4.0, "bottom": -2.0, "halfway": 0.1, "missing": -2.5},
        answers(("100", 4.0), ("110", 1.0), ("90", 1.0), ("105", 2.8), gold="100"),
        answers(("120", -0.8), ("1e30", -2.0), ("many", -2.5), gold="100"),
    ),
    "exact_match": Examples(
        {"points": 1.0},
        answers(
            ("Dear Sam, thanks.", 1.0),
            ("dear sam,\nthanks", 1.0),
            ("“Dear Sam, thanks.”", 1.0),
            gold="Dear Sam, thanks.",
        ),
        answers(("Dear Sam", 0.0), ("Thanks, dear Sam.", 0.0), ("", 0.0), gold="Dear Sam, thanks."),
    ),
    "email_keywords": Examples(
        {"column": "keywords", "each": 0.5, "complete": 1.0},
        answers(
            ("The invoice of 42 euros is due on Friday.", 2.5),
            ("INVOICE: friday, 42  euros", 2.5),
            ("Your invoice is due on Friday.", 1.0),
            columns=KEYWORDS,
        ),
        answers(("invoices, Fridays", 0.0), ("Hello", 0.0), columns=KEYWORDS) + answers(("Hello", None)),
    ),
    "recipient_name": Examples(
        {"column": "recipient", "points": 1.0},
        answers(("Dear Dr. Anna Keller,", 1.0), ("Hi Anna!", 1.0), ("Dear Ms Keller,", 1.0), columns=NAME),
        answers(("Dear doctor,", 0.0), ("Dear Annabel,", 0.0), columns=NAME) + answers(("Dear Anna,", None)),
    ),
    "signature_block": Examples(
        {"points": 1.0},
        answers(
            ("Thanks. Sam Lee, +44 20 7946 0123", 1.0),
            ("Thanks. sam.lee@example.com", 1.0),
            ("Thanks. Sam Lee, 12 Mill Lane, York", 1.0),
        ),
        answers(("Thanks. Sam Lee", 0.0), ("See you on 24.12.2026, Sam", 0.0), ("sam at example", 0.0)),
    ),
    "too_long": Examples(
        {"words": 4, "points": -1.0},
        answers(("See you on Friday.", 0.0), ("Hello", 0.0), ("", 0.0)),
        answers(("See you then on Friday.", -1.0), ("请在星期五之前告诉我", -1.0))
        + texts(("<answer>" + "so " * 5, -1.0), ("<answer>Hello</answer> And now for more.", -1.0)),
    ),
    "min_length": Examples(
        {"tokens": 20, "points": -0.5}, long((20, 0.0), (21, 0.0), (99, 0.0)), long((0, -0.5), (1, -0.5), (19, -0.5))
    ),
    "max_length": Examples(
        {"tokens": 20, "points": -0.5}, long((0, 0.0), (19, 0.0), (20, 0.0)), long((21, -0.5), (30, -0.5), (99, -0.5))
    ),
    "soft_overlong": Examples(
        {"max_tokens": 20, "cache_tokens": 8},
        long((1, 0.0), (12, 0.0), (13, -0.125)),
        long((16, -0.5), (20, -1.0), (30, -1.0)),
    ),
    "repetition": Examples(
        {"words": 2, "points": -1.0},
        texts(("one two three four", 0.0), ("one", 0.0), ("to be or not to be", -0.2)),
        texts(("no no no no no", -0.75), ("so and so and so", -0.5), ("是是是是是", -0.75)),
    ),
    "language_consistency": Examples(
        {"language": "en", "points": 1.0},
        reasoned(
            ("There are five of them, and we have two.", 1.0), ("The share is 3/4.", 1.0), ("x = 5, so it holds", 1.0)
        ),
        reasoned(
            ("Es sind fünf und wir haben zwei.", 0.0),
            ("Их пять, и у нас две.", 0.0),
            ("Ada lima, dan kami punya dua.", 0.0),
            ("We have 五个 und nicht", 0.4),
        ),
    ),
    "readability": Examples(
        {"easiest": 110.0, "hardest": 60.0, "points": 1.0},
        answers(
            ("Please send the report to Anna before Friday.", 1.0),
            ("Thank you for the table. It looks good in the kitchen.", 1.0),
            ("We plan to visit the museum on Monday morning.", 1.0),
        ),
        answers(
            ("Institutional heterogeneity necessitates interdisciplinary methodologies.", 0.0),
            ("Notwithstanding contractual obligations, reimbursement remains discretionary.", 0.0),
            ("42", None),
        ),
    ),
    "step_check": Examples(
        {"points": 1.0},
        reasoned(("12*3 = 36, then 36 + 4 = 40", 1.0), ("<<12*3=36>>", 1.0), ("12 × 3 = 36 and 10/3 = 3.33", 1.0)),
        reasoned(("12*3 = 35", 0.0), ("1 + 1 = 2 and 2 + 2 = 5", 0.0), ("x = 12, so there are 12", None))
        + wrong_after("1 + 1 = 2"),
    ),
    "random": Examples(
        {"low": 0.0, "high": 1.0},
        texts((GOOD, 0.5861), ("85", 0.6947), ("86", 0.7282)),
        texts(("a", 0.6422), ("b", 0.6275), ("", 0.9898)),
    ),
    "code_compiles": Examples(
        {"points": 1.0},
        programs(
            ("compiles", tested(1, 1, 3), 1.0),
            ("passes nothing", tested(1, 0, 0), 1.0),
            ("passes all", tested(1, 1, 4), 1.0),
        ),
        programs(
            ("does not compile", tested(0, 0, 0), 0.0),
            ("no program", wrong(MISSING), 0.0),
            ("verdict without tests", WRONG, None),
        ),
    ),
    "code_runs": Examples(
        {"points": 1.0},
        programs(
            ("runs", tested(1, 1, 3), 1.0),
            ("passes nothing", tested(1, 1, 0), 1.0),
            ("passes all", tested(1, 1, 4), 1.0),
        ),
        programs(
            ("raises", tested(1, 0, 2), 0.0),
            ("does not compile", tested(0, 0, 0), 0.0),
            ("over its time before the first test", wrong(TIMEOUT), 0.0),
        ),
    ),
    "tests_passed": Examples(
        {"share_points": 2.0, "all_points": 1.0},
        programs(("4 of 4", tested(1, 1, 4), 3.0), ("3 of 4", tested(1, 1, 3), 1.5), ("2 of 4", tested(1, 0, 2), 1.0)),
        programs(
            ("0 of 4", tested(1, 1, 0), 0.0),
            ("does not compile", tested(0, 0, 0), 0.0),
            ("no program", wrong(MISSING), 0.0),
        ),
    ),
}
