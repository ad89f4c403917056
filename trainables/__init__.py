"""Turns one TrialConfig into one trained, measured student."""
