"""How good a model is: scores, baselines, comparison of every family on one scale, and statistics of one fit."""

from probseq.evaluation.alignment import align, permute_states
from probseq.evaluation.approximations import Approximation, approximate, divergence_rate
from probseq.evaluation.automata import Automaton, automaton
from probseq.evaluation.auxiliary import auxiliary_residuals, smoothed_disturbances
from probseq.evaluation.compare import compare
from probseq.evaluation.comparison import Comparison
from probseq.evaluation.convert import distill, from_hmm, from_lds, steady_gain
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
from probseq.evaluation.dynamics import (
    FixedPoints,
    GradientFlow,
    LimitCycle,
    Sensitivity,
    TimeScales,
    attractor_boundary,
    fixed_points,
    gradient_flow,
    limit_cycle,
    lyapunov_exponents,
    mixing_time,
    plot_eigenvalues,
    plot_gradients,
    plot_phase_portrait,
    sensitivity,
    time_scales,
)
from probseq.evaluation.inference import standard_errors
from probseq.evaluation.memory import Memory, context_ablation
from probseq.evaluation.probes import BeliefProbe, belief_probe
from probseq.evaluation.residuals import PseudoResiduals, pseudo_residuals
from probseq.evaluation.residuals_plot import plot_residuals
from probseq.evaluation.scores import crps, default_bandwidth, hac_standard_error, log_score
from probseq.evaluation.selection import StateChoice, choose_n_states
from probseq.evaluation.summary import Summary, summary

__all__ = [
    "Approximation",
    "Automaton",
    "BeliefProbe",
    "Comparison",
    "FixedPoints",
    "GradientFlow",
    "LimitCycle",
    "Memory",
    "PseudoResiduals",
    "Sensitivity",
    "StateChoice",
    "Summary",
    "TimeScales",
    "align",
    "approximate",
    "attractor_boundary",
    "automaton",
    "auxiliary_residuals",
    "belief_probe",
    "choose_n_states",
    "compare",
    "context_ablation",
    "crps",
    "default_bandwidth",
    "diagnose",
    "distill",
    "divergence_rate",
    "fixed_points",
    "from_hmm",
    "from_lds",
    "gradient_flow",
    "hac_standard_error",
    "heteroskedasticity",
    "jarque_bera",
    "kurtosis",
    "limit_cycle",
    "ljung_box",
    "log_score",
    "lyapunov_exponents",
    "mixing_time",
    "permute_states",
    "plot_diagnostics",
    "plot_eigenvalues",
    "plot_gradients",
    "plot_phase_portrait",
    "plot_residuals",
    "pseudo_residuals",
    "sensitivity",
    "skewness",
    "smoothed_disturbances",
    "standard_errors",
    "standardized_residuals",
    "steady_gain",
    "summary",
    "time_scales",
]
