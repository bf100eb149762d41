"""Trained models: their folders, their costs, and the device, precision and threads that run them."""
