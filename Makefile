.PHONY: lint test test-all validate judge readme bench

lint:  ## style and types
	ruff check .
	mypy

test:  ## what every change must pass
	pytest

test-all:  ## the slow tests as well
	pytest -m ""

validate:  ## every preset against live PyTorch models
	txcalc validate --all

judge:  ## every model type of transformers against its classes; writes docs/models.md
	python -m tests.judge

readme:  ## write the README's outputs anew from the program
	python tests/readme.py

bench:  ## startup, one rank and throughput, as ratios measured side by side
	python tests/benchmarks/startup.py
	python tests/benchmarks/ranks.py
	python tests/benchmarks/sweep.py
