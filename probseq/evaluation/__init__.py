"""How good a model is: scores, baselines, comparison of every family on one scale, and statistics of one fit."""

from probseq.evaluation.alignment import align, permute_states
from probseq.evaluation.auxiliary import auxiliary_residuals, smoothed_disturbances
from probseq.evaluation.compare import compare
from probseq.evaluation.comparison import Comparison
from probseq.evaluation.diagnostics import (
    diagnose,
    heteroskedasticity,
    jarque_bera,
    kurtosis,
    ljung_box,
    skewness,
    standardized_residuals,
)
from probseq.evaluation.diagnostics_plot import plot_diagnostics
from probseq.evaluation.dynamics import GradientFlow, gradient_flow
from probseq.evaluation.inference import standard_errors
from probseq.evaluation.residuals import PseudoResiduals, pseudo_residuals
from probseq.evaluation.residuals_plot import plot_residuals
from probseq.evaluation.scores import crps, default_bandwidth, hac_standard_error, log_score
from probseq.evaluation.selection import StateChoice, choose_n_states
from probseq.evaluation.summary import Summary, summary

__all__ = [
    "Comparison",
    "GradientFlow",
    "PseudoResiduals",
    "StateChoice",
    "Summary",
    "align",
    "auxiliary_residuals",
    "choose_n_states",
    "compare",
    "crps",
    "default_bandwidth",
    "diagnose",
    "gradient_flow",
    "hac_standard_error",
    "heteroskedasticity",
    "jarque_bera",
    "kurtosis",
    "ljung_box",
    "log_score",
    "permute_states",
    "plot_diagnostics",
    "plot_residuals",
    "pseudo_residuals",
    "skewness",
    "smoothed_disturbances",
    "standard_errors",
    "standardized_residuals",
    "summary",
]
