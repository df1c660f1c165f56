"""Numbers, read exactly from the notations that models and people write."""

from rlvr.verifiers.number.comparison import check_gold, verify
from rlvr.verifiers.number.reading import first, parse

__all__ = ["check_gold", "first", "parse", "verify"]
