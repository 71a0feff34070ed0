.PHONY: lint test validate readme bench

lint:  ## style and types
	ruff check .
	mypy

test:  ## the whole test suite
	pytest

validate:  ## every preset against live PyTorch models
	txcalc validate --all

readme:  ## write the README's outputs anew from the program
	python tests/readme.py

bench:  ## startup and throughput, as ratios measured side by side
	python tests/benchmarks/startup.py
	python tests/benchmarks/sweep.py
