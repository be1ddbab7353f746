"""How good a model is: scores, baselines, comparison of every family on one scale, and statistics of one fit."""

from probseq.evaluation.alignment import align, permute_states
from probseq.evaluation.approximations import Approximation, approximate, divergence_rate
from probseq.evaluation.automata import Automaton, automaton
from probseq.evaluation.auxiliary import auxiliary_residuals, smoothed_disturbances
from probseq.evaluation.backtest import backtest
from probseq.evaluation.backtest_result import Backtest
from probseq.evaluation.bootstrap import automatic_block_length
from probseq.evaluation.calibration import (
    Calibration,
    berkowitz_test,
    calibration,
    coverage_test,
    independence_test,
    pit,
    pit_values,
    uniform_test,
)
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
from probseq.evaluation.log_scores import LogScores, log_scores
from probseq.evaluation.memory import Memory, context_ablation
from probseq.evaluation.point_scores import interval_score, mae, mase, naive_scale, quantile_score, rmse
from probseq.evaluation.probes import BeliefProbe, belief_probe
from probseq.evaluation.report import html_report
from probseq.evaluation.residuals import PseudoResiduals, pseudo_residuals
from probseq.evaluation.residuals_plot import plot_residuals
from probseq.evaluation.rounded import cell_log_prob, dequantised
from probseq.evaluation.scores import crps, default_bandwidth, energy_score, hac_standard_error, log_score
from probseq.evaluation.selection import StateChoice, choose_n_states
from probseq.evaluation.significance import ConfidenceSet, DieboldMariano, diebold_mariano, model_confidence_set
from probseq.evaluation.stacking import Stacked, stack, stacking_weights
from probseq.evaluation.summary import Summary, summary

__all__ = [
    "Approximation",
    "Automaton",
    "Backtest",
    "BeliefProbe",
    "Calibration",
    "Comparison",
    "ConfidenceSet",
    "DieboldMariano",
    "FixedPoints",
    "GradientFlow",
    "LimitCycle",
    "LogScores",
    "Memory",
    "PseudoResiduals",
    "Sensitivity",
    "Stacked",
    "StateChoice",
    "Summary",
    "TimeScales",
    "align",
    "approximate",
    "attractor_boundary",
    "automatic_block_length",
    "automaton",
    "auxiliary_residuals",
    "backtest",
    "belief_probe",
    "berkowitz_test",
    "calibration",
    "cell_log_prob",
    "choose_n_states",
    "compare",
    "context_ablation",
    "coverage_test",
    "crps",
    "default_bandwidth",
    "dequantised",
    "diagnose",
    "diebold_mariano",
    "distill",
    "divergence_rate",
    "energy_score",
    "fixed_points",
    "from_hmm",
    "from_lds",
    "gradient_flow",
    "hac_standard_error",
    "heteroskedasticity",
    "html_report",
    "independence_test",
    "interval_score",
    "jarque_bera",
    "kurtosis",
    "limit_cycle",
    "ljung_box",
    "log_score",
    "log_scores",
    "lyapunov_exponents",
    "mae",
    "mase",
    "mixing_time",
    "model_confidence_set",
    "naive_scale",
    "permute_states",
    "pit",
    "pit_values",
    "plot_diagnostics",
    "plot_eigenvalues",
    "plot_gradients",
    "plot_phase_portrait",
    "plot_residuals",
    "pseudo_residuals",
    "quantile_score",
    "rmse",
    "sensitivity",
    "skewness",
    "smoothed_disturbances",
    "stack",
    "stacking_weights",
    "standard_errors",
    "standardized_residuals",
    "steady_gain",
    "summary",
    "time_scales",
    "uniform_test",
]
