"""Provide data to learn from: simulated from volumes, or measured and undersampled."""
