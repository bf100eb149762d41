"""The reconstruction methods, one file a method, each a list of steps for `mrirecon.engine`."""
