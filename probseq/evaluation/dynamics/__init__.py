"""What a state does by itself, and what reaches it from the future.

| question                                   | functions                                                               |
|--------------------------------------------|-------------------------------------------------------------------------|
| how does an error travel back in time?     | gradient_flow, plot_gradients                                           |
| where does the state come to rest?         | fixed_points, limit_cycle, plot_phase_portrait, plot_eigenvalues        |
| does it forget, oscillate, or is it chaos? | lyapunov_exponents, time_scales, mixing_time                            |
| where does a small change decide?          | attractor_boundary, sensitivity                                         |
"""

from probseq.evaluation.dynamics.exponents import TimeScales, lyapunov_exponents, mixing_time, time_scales
from probseq.evaluation.dynamics.fixed_points import (
    FixedPoints,
    LimitCycle,
    Sensitivity,
    attractor_boundary,
    fixed_points,
    limit_cycle,
    sensitivity,
)
from probseq.evaluation.dynamics.gradient_flow import GradientFlow, gradient_flow
from probseq.evaluation.dynamics.pictures import plot_eigenvalues, plot_gradients, plot_phase_portrait

__all__ = [
    "FixedPoints",
    "GradientFlow",
    "LimitCycle",
    "Sensitivity",
    "TimeScales",
    "attractor_boundary",
    "fixed_points",
    "gradient_flow",
    "limit_cycle",
    "lyapunov_exponents",
    "mixing_time",
    "plot_eigenvalues",
    "plot_gradients",
    "plot_phase_portrait",
    "sensitivity",
    "time_scales",
]
