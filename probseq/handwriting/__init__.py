"""Handwriting: what a pen does, recorded or made up, and the networks that predict it and write."""

from probseq.handwriting.error_rates import ErrorRates, error_rates
from probseq.handwriting.language import Language, NGram, SequenceModel
from probseq.handwriting.optimizer import GravesRMSprop
from probseq.handwriting.pictures import plot_alignment, plot_density, plot_strokes
from probseq.handwriting.prediction import PAPER, LineScores, evaluate, prediction_network
from probseq.handwriting.reader import Reader, ReaderStream
from probseq.handwriting.reading_picture import plot_reading
from probseq.handwriting.recordings import read_iam, read_inkml, read_sketches
from probseq.handwriting.soft_window import WindowedStack
from probseq.handwriting.strokes import Strokes, Units
from probseq.handwriting.synthesis import alignment, load_writer, synthesis_network
from probseq.handwriting.synthetic import LATIN, Font, Glyph, Writer
from probseq.handwriting.train_reader import load_reader
from probseq.handwriting.writing import Written, write

__all__ = [
    "load_reader",
    "plot_reading",
    "ReaderStream",
    "Reader",
    "SequenceModel",
    "NGram",
    "Language",
    "error_rates",
    "ErrorRates",
    "LATIN",
    "PAPER",
    "Font",
    "Glyph",
    "GravesRMSprop",
    "LineScores",
    "Strokes",
    "Units",
    "WindowedStack",
    "Writer",
    "Written",
    "alignment",
    "evaluate",
    "load_writer",
    "plot_alignment",
    "plot_density",
    "plot_strokes",
    "prediction_network",
    "read_iam",
    "read_inkml",
    "read_sketches",
    "synthesis_network",
    "write",
]
