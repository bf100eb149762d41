"""Define the reconstruction methods, one file per method, each a list of steps for `mrirecon.engine`."""
