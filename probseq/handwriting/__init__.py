"""Handwriting: what a pen does, recorded or made up."""

from probseq.handwriting.recordings import read_iam, read_inkml
from probseq.handwriting.strokes import Strokes, Units
from probseq.handwriting.synthetic import LATIN, Font, Glyph, Writer

__all__ = ["LATIN", "Font", "Glyph", "Strokes", "Units", "Writer", "read_iam", "read_inkml"]
