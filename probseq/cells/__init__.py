"""Recurrent cells: one learned step h_t = cell(x_t, h_{t-1}), the deterministic part of a recurrent network."""

from probseq.cells.base import Cell
from probseq.cells.bidirectional import Bidirectional
from probseq.cells.clamped import Clamped
from probseq.cells.elman import Elman
from probseq.cells.gru import GRU
from probseq.cells.initialization import EchoStateInit, Initialization, NormalInit, RotationInit
from probseq.cells.kalman import Kalman
from probseq.cells.lstm import LSTM
from probseq.cells.multiplicative import Multiplicative
from probseq.cells.reservoir import Reservoir
from probseq.cells.scan_cells import LRU, MinGRU, MinLSTM
from probseq.cells.stack import Stack

__all__ = [
    "GRU",
    "LRU",
    "LSTM",
    "Bidirectional",
    "Cell",
    "Clamped",
    "EchoStateInit",
    "Elman",
    "Initialization",
    "Kalman",
    "MinGRU",
    "MinLSTM",
    "Multiplicative",
    "NormalInit",
    "RotationInit",
    "Reservoir",
    "Stack",
]
