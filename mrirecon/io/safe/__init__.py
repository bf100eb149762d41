"""Guards: bounded reading of untrusted files, child processes, atomic writing, locks and checksums."""
