"""Estimate coil sensitivities and coil noise; whiten and compress coils."""
