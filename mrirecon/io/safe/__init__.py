"""Read untrusted files safely; write files atomically; provide locks and checksums."""
