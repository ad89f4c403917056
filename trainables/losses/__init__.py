"""Losses: the cross-entropy with the labels, and the terms of distillation."""
