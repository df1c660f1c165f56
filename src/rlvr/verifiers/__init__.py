"""Verifiers: is this answer right? Each has its own module with `verify(answer, gold, **options) -> Verdict`."""

from __future__ import annotations

from dataclasses import dataclass

from rlvr.verifiers.verdict import Verdict

__all__ = ["VERIFIERS", "Verdict", "Verifier"]


@dataclass(frozen=True)
class Verifier:
    """A verifier's function, named by `target` as `module:function`.

    An isolated one may hang or exhaust memory: it runs in a worker process with a deadline and is never imported here.
    """

    target: str
    isolated: bool = False


VERIFIERS = {
    "exact": Verifier("rlvr.verifiers.text:exact"),
    "text": Verifier("rlvr.verifiers.text:normalised"),
    "number": Verifier("rlvr.verifiers.number:verify"),
    "choice": Verifier("rlvr.verifiers.choice:verify"),
    "math": Verifier("rlvr.verifiers.mathematics:verify", isolated=True),
    "json_schema": Verifier("rlvr.verifiers.json_schema:verify", isolated=True),
    "pattern": Verifier("rlvr.verifiers.pattern:verify", isolated=True),
    "python": Verifier("rlvr.verifiers.python:verify", isolated=True),
    "sql": Verifier("rlvr.verifiers.sql:verify", isolated=True),
}
