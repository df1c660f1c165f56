"""Verifiers: is this answer right? Each is `judge(answer, gold, **options) -> Verdict` in a module of its own."""

from __future__ import annotations

from dataclasses import dataclass

from rlvr.verifiers.verdict import Verdict

__all__ = ["VERIFIERS", "Verdict", "Verifier"]


@dataclass(frozen=True)
class Verifier:
    """`target` is where the function lies, `module:function`.

    An isolated one may hang or blow up: it runs in a worker process with a deadline, and is never imported here.
    """

    target: str
    isolated: bool = False


VERIFIERS = {
    "exact": Verifier("rlvr.verifiers.text:exact"),
    "text": Verifier("rlvr.verifiers.text:normalised"),
    "number": Verifier("rlvr.verifiers.number:judge"),
    "choice": Verifier("rlvr.verifiers.choice:judge"),
    "math": Verifier("rlvr.verifiers.mathematics:judge", isolated=True),
    "json_schema": Verifier("rlvr.verifiers.json_schema:judge", isolated=True),
    "pattern": Verifier("rlvr.verifiers.pattern:judge", isolated=True),
    "python": Verifier("rlvr.verifiers.python:judge", isolated=True),
    "sql": Verifier("rlvr.verifiers.sql:judge", isolated=True),
}
