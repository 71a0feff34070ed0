"""Quantities: the entries that each operation of a run adds, and live bytes over its moments."""
