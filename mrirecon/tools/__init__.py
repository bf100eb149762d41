"""Commands on mrirecon itself: selftest, doctor, benchmark and demo."""
