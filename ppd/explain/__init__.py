"""Explanations: which picks say so, what another answer would have changed, how a taste went over time, and the same
person with one look turned."""
