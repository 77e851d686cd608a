"""Figures, each printed beside its peer or its limit from the same run. Machines are noisy: medians and ratios."""
