"""Mathematics in LaTeX or plain notation, compared by math-verify. Only called in a worker.

The whole answer must be one expression (or relation, set, interval, list). Prose is not searched for expressions, since
an answer with several candidates would then be graded by its luckiest one. math-verify's time limits use signals and
are switched off: the pool sets the deadline.
"""

from rlvr.verifiers.mathematics.comparison import check_gold, verify

__all__ = ["check_gold", "verify"]
