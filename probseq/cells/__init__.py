"""Recurrent cells: one learned step h_t = cell(x_t, h_{t-1}), the deterministic part of a recurrent network."""

from probseq.cells.base import Cell
from probseq.cells.elman import Elman
from probseq.cells.gru import GRU
from probseq.cells.lstm import LSTM

__all__ = ["GRU", "LSTM", "Cell", "Elman"]
