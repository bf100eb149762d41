"""Read files: one registered module for each format, `reader.read` for k-space, `images.read_image` for images."""
