"""Write files: one module for each format, `write.write_image` for images, `convert.convert` between formats."""
