"""Coil sensitivities, coil noise, whitening and compression."""
