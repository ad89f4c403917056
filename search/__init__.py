"""Decides what to train next and keeps the record."""
