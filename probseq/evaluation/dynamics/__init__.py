"""What a model's state does by itself and what reaches it from the future: dynamics."""

from probseq.evaluation.dynamics.gradient_flow import GradientFlow, gradient_flow

__all__ = ["GradientFlow", "gradient_flow"]
