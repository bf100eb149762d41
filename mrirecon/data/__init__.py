"""Data to reconstruct: simulated where none was measured."""
