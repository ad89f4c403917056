"""The ways to train a student."""
