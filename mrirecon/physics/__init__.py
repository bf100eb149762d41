"""Model y = M F S x + n: operators, problems, changes of variable, regularizers and solvers."""
