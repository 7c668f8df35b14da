"""Distillery: one small, fast student from an ensemble of strong models, with the proof that it is worth shipping."""

__version__ = "0.1.0"
