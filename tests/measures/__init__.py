"""Runs that tests alone measure: generation, and a rank of several, by names that ``fake_cuda.ask`` takes."""
