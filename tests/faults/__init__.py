"""Test the fault list: one parametrized test per row, whose ids start with the row's name (`pytest -k F13`)."""
