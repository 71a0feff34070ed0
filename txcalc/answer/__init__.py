"""Documents: a report, a comparison, a difference, a curve, each with its numbers and nothing else."""
