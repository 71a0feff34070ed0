"""What txcalc reads of the installed transformers, judged against its classes: ``python -m tests.judge``."""
