"""The measurement y = M F S x + n and its problem: operators, regularizers and solvers, in full precision."""
