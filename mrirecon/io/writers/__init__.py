"""Writers: one file a format, `write.write_image` for images and `convert.convert` between formats."""
