"""Readers: one registered file a format, `reader.read` for k-space and `images.read_image` for images."""
