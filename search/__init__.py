"""Decides what to train next and keeps the record."""

__version__ = "0.2.0"
