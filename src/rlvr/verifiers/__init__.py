"""Verifiers: is this answer right? Each has its own module with `verify(answer, gold, **options) -> Verdict`.

A module whose golds are not just text also has `check_gold(gold, **options) -> Verdict`: a fault says what is wrong
with the gold itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from rlvr.verifiers.verdict import Verdict

__all__ = ["VERIFIERS", "Verdict", "Verifier", "verifier_named"]


@dataclass(frozen=True)
class Verifier:
    """A verifier's function, named by `target` as `module:function`.

    An isolated one may hang or exhaust memory: it runs in a worker process with a deadline and is never imported here.
    One that `reads_question` gets it as a third argument. With `any_gold` every text is a gold, and the module has no
    check_gold.
    """

    target: str
    isolated: bool = False
    reads_question: bool = False
    any_gold: bool = False

    @property
    def check_gold(self) -> str:
        """The function that checks a gold, as `module:function`."""
        return f"{self.target.partition(':')[0]}:check_gold"


VERIFIERS = {
    "exact": Verifier("rlvr.verifiers.text:exact", any_gold=True),
    "text": Verifier("rlvr.verifiers.text:normalised", any_gold=True),
    "number": Verifier("rlvr.verifiers.number:verify"),
    "choice": Verifier("rlvr.verifiers.choice:verify"),
    "math": Verifier("rlvr.verifiers.mathematics:verify", isolated=True, reads_question=True),
    "json_schema": Verifier("rlvr.verifiers.json_schema:verify", isolated=True),
    "pattern": Verifier("rlvr.verifiers.pattern:verify", isolated=True),
    "python": Verifier("rlvr.verifiers.python:verify", isolated=True),
    "sql": Verifier("rlvr.verifiers.sql:verify", isolated=True),
}
OWN = Verifier("rlvr.verifiers.workers.own:verify", isolated=True)  # user/FILE.py:FUNCTION, a function of the user's


def verifier_named(name: str) -> Verifier:
    return OWN if ":" in name else VERIFIERS[name]
