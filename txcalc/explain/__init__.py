"""Symbols, derivations and textbook formulas: a run on our own polynomials, read as a person writes them."""
