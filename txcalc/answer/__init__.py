"""Documents: a report, a comparison, a difference, a curve, a derivation, each with its numbers and nothing else."""
