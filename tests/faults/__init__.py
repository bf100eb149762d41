"""The fault list, row by row: one parametrised test each, whose ids start with the row's name (`pytest -k F13`)."""
