"""Reconstruct images from scans: preprocess, choose a method, estimate maps, solve and write; one file or many."""
