"""How good a model is: scores, baselines, and the comparison of every family on one scale."""

from probseq.evaluation.compare import compare
from probseq.evaluation.comparison import Comparison
from probseq.evaluation.scores import crps, default_bandwidth, hac_standard_error, log_score

__all__ = ["Comparison", "compare", "crps", "default_bandwidth", "hac_standard_error", "log_score"]
