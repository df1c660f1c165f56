"""From what a worker replied to the verdict of the verifier that ran there."""

from __future__ import annotations

from rlvr.verifiers.verdict import CRASH, MEMORY, TIMEOUT, WORKER, Verdict, fault, wrong
from rlvr.verifiers.workers import Reply

CAUSES = {"timeout": TIMEOUT, "memory": MEMORY, "crash": CRASH, "error": CRASH}


def verdict(reply: Reply) -> Verdict:
    """The verdict in `reply`. An answer that breaks its judge is wrong: nothing is to be gained that way.

    Only what was never judged, because a worker or the verifier's module could not be loaded, is our fault.
    """
    if reply.failure is None:
        return Verdict.from_json(reply.value)
    if reply.failure == "worker":
        return fault(WORKER, reply.message)
    return wrong(CAUSES[reply.failure], reply.message)
