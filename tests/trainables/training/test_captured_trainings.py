"""Trainings whose steps are replayed give the numbers of those whose steps are called."""
