"""The version of the library, written into every saved file."""

__version__ = "0.1.0"
