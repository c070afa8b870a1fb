"""Which model is better, and how sure that is: figures, blind tests by the person, judges, reports."""

from .figures import (
    Array,
    bootstrap,
    bootstrap_both,
    correlation,
    micro_f1,
    object_counts,
    permutation_p,
    ridge_r2,
    wins,
)

__all__ = [
    "Array",
    "bootstrap",
    "bootstrap_both",
    "correlation",
    "micro_f1",
    "object_counts",
    "permutation_p",
    "ridge_r2",
    "wins",
]
