"""Provide tools that check and demonstrate mrirecon: selftest, doctor, benchmark and demo."""
