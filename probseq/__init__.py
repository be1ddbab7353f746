"""probseq: one belief-state contract for linear dynamical systems, hidden Markov models and recurrent networks.

model.filter(y)      p(z_t | y_<=t)        model.log_prob(y)    log p(y), differentiable
model.smooth(y)      p(z_t | y)            model.forecast(y, 5) p(y_{T+h} | y)
model.decode(y)      the best path         model.fit(y)         learn in place
model.stream()       step by step          probseq.compare(...) every family, one score
"""

from importlib import import_module as _import_module
from typing import Any as _Any

from probseq import beliefs, cells, datasets, durations, emissions, errors, learning, priors
from probseq._version import __version__
from probseq.base import Filtered, LatentStateModel, StateSpaceModel, Stream
from probseq.beliefs import at, to_numpy
from probseq.emissions import heads
from probseq.evaluation.compare import compare
from probseq.evaluation.comparison import Comparison
from probseq.forecasting import Forecast
from probseq.functions import StateFunction
from probseq.io import load
from probseq.labelling import SequenceLabeller
from probseq.models.autoregressive import AR
from probseq.models.echo_state import EchoState
from probseq.models.hmm import HMM
from probseq.models.hsmm import HSMM
from probseq.models.labeller import Labeller
from probseq.models.lds import LDS
from probseq.models.neural_autoregressive import NeuralAR
from probseq.models.nonlinear import NonlinearGaussian
from probseq.models.particle_filter import Estimate, ParticleFilter
from probseq.models.rnn import RNN
from probseq.models.structural import Structural
from probseq.models.switching import SwitchingLDS
from probseq.models.switching_autoregression import SwitchingAR
from probseq.ops.linearise import Cubature, ExtendedKalman, GaussHermite, UnscentedTransform
from probseq.sequences import Sequences

__all__ = [
    # families
    "AR",
    "EchoState",
    "HMM",
    "HSMM",
    "LDS",
    "NeuralAR",
    "NonlinearGaussian",
    "ParticleFilter",
    "RNN",
    "Structural",
    "SwitchingAR",
    "SwitchingLDS",
    "Labeller",
    # the contract
    "Filtered",
    "Forecast",
    "LatentStateModel",
    "SequenceLabeller",
    "Sequences",
    "StateSpaceModel",
    "Stream",
    "Estimate",
    # comparison
    "Comparison",
    "compare",
    # beliefs
    "at",
    "beliefs",
    "to_numpy",
    # parts of models
    "Cubature",
    "ExtendedKalman",
    "GaussHermite",
    "StateFunction",
    "UnscentedTransform",
    "cells",
    "durations",
    "learning",
    "emissions",
    "heads",
    "priors",
    # data, files, conditions
    "datasets",
    "errors",
    "load",
    "__version__",
]


def __getattr__(name: str) -> _Any:
    """`ps.bayes` and the families in it import Pyro when they are first asked for."""
    if name == "bayes":
        return _import_module("probseq.bayes")
    if name in ("DeepMarkov", "SRNN", "VRNN"):
        return getattr(_import_module("probseq.bayes"), name)
    raise AttributeError(f"module 'probseq' has no attribute {name!r}")
