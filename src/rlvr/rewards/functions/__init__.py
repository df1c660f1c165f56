"""The built-in reward functions by name: a sample in, points out.

A function is `f(sample, *, options) -> points`. It returns None if it does not apply to the sample, and NaN if scoring
failed through no fault of the completion. To add one, write a function in a file of this folder and a line here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rlvr.rewards.functions import answer, code, control, email, form, length, prose, steps

RewardFunction = Callable[..., float | None]

FUNCTIONS: dict[str, RewardFunction] = {
    "format_exact": form.format_exact,
    "format_approximate": form.format_approximate,
    "soft_format": form.soft_format,
    "strict_format": form.strict_format,
    "tag_count": form.tag_count,
    "answer": answer.answer,
    "number": answer.number,
    "number_detected": answer.number_detected,
    "number_matches": answer.number_matches,
    "correctness": answer.correctness,
    "is_integer": answer.is_integer,
    "proximity_smooth": answer.proximity_smooth,
    "exact_match": answer.exact_match,
    "email_keywords": email.email_keywords,
    "recipient_name": email.recipient_name,
    "signature_block": email.signature_block,
    "too_long": length.too_long,
    "min_length": length.min_length,
    "max_length": length.max_length,
    "soft_overlong": length.soft_overlong,
    "repetition": prose.repetition,
    "language_consistency": prose.language_consistency,
    "readability": prose.readability,
    "step_check": steps.step_check,
    "code_compiles": code.code_compiles,
    "code_runs": code.code_runs,
    "tests_passed": code.tests_passed,
    "random": control.random,
}


def check_values(where: str, name: str, options: Mapping[str, Any], *, max_completion_tokens: int) -> None:
    """Raise ValueError, naming `where`, for options of function `name` with the right type but an impossible value."""
    if name == "soft_overlong":
        _check_overlong(where, options["max_tokens"], options["cache_tokens"], max_completion_tokens)
    if name == "proximity_smooth" and options["halfway"] <= 0:
        raise ValueError(f"{where}: halfway {options['halfway']:g} must be above 0: a relative error, such as 0.1")
    if name == "repetition" and options["words"] < 1:
        raise ValueError(f"{where}: words {options['words']} must be 1 or more: the length of a run, such as 3")
    if name == "language_consistency" and options["language"] not in prose.SCRIPTS:
        raise ValueError(
            f"{where}: language {options['language']!r} is unknown; choose one of {', '.join(sorted(prose.SCRIPTS))}"
        )
    if name == "readability" and not options["hardest"] <= options["easiest"]:
        raise ValueError(
            f"{where}: hardest {options['hardest']:g} must not be above easiest {options['easiest']:g}: "
            "a low reading ease means hard to read"
        )
    if name in {"min_length", "max_length"} and not 0 <= options["tokens"] <= max_completion_tokens:
        raise ValueError(
            f"{where}: tokens {options['tokens']} must be from 0 to {max_completion_tokens}, "
            "rollout.max_completion_tokens"
        )
    if name == "too_long" and options["words"] < 0:
        raise ValueError(f"{where}: words {options['words']} must not be negative")


def _check_overlong(where: str, longest: float, cache: float, max_completion_tokens: int) -> None:
    if not 0 <= cache <= longest:
        raise ValueError(
            f"{where}: cache_tokens {cache:g} must be from 0 to max_tokens {longest:g}: "
            "the penalty begins that many tokens before max_tokens"
        )
    if longest > max_completion_tokens:
        raise ValueError(
            f"{where}: max_tokens {longest:g} is above rollout.max_completion_tokens "
            f"{max_completion_tokens}, where completions end, so the full penalty could never be reached; lower it"
        )
