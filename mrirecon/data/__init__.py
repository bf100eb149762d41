"""Provide training data: simulated from volumes, or measured and undersampled."""
