"""Labelled images as labelling tools export them."""
