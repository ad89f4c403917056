"""Segmentation networks: students and teachers."""
