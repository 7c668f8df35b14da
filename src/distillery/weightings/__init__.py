"""How ensemble weights are found. One file here = one weighting that a config can name.

A weighting is a function ``(probs_MNC, labels_N, pool, **options) -> weights [M]`` on the simplex.
"""

from distillery.registry import Registry

WEIGHTINGS = Registry("weighting", "distillery.weightings")
