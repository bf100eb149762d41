"""Coil sensitivities: calibration region, ESPIRiT."""
