"""Adapt a trained model to undersampled scans, with no other data (zero-shot and few-shot self-supervised learning).

Yaman, Hosseini, Akçakaya, "Zero-shot self-supervised learning for MRI reconstruction", ICLR 2022. `split` divides the
measured samples of a slice, `fit` trains on them, and `scans` applies both to scans and writes the adapted model.
"""
