"""The measurement y = M F S x + n and its problem: operators, transforms, regularizers, solvers."""
