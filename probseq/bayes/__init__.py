"""Pyro: any model as a distribution inside a larger program.

The only package that imports Pyro; `import probseq` does not import this one, `ps.bayes` does.
"""

from probseq.bayes.distribution import SeriesDistribution, as_distribution

__all__ = ["SeriesDistribution", "as_distribution"]
