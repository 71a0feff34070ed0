"""``txcalc count gpt3`` beside the bare imports of what it stands on. Run: python tests/benchmarks/startup.py

The commands run in turn, so that a busy machine slows them alike; medians of wall time, and their ratios.

``import pydantic`` alone is lazy and loads next to nothing, so a second line gives what any program that defines a
model pays. What was read before comes from the cache; ``anew`` is without one. The last two, which differ in nothing
but the model's size, take the same time.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[2]
RUNS = int(sys.argv[1]) if len(sys.argv) > 1 else 25
CALL = "import sys; from txcalc.__main__ import main; sys.argv = ['txcalc', *sys.argv[1:]]; main()"
NO_CACHE = "import os; os.environ['TXCALC_CACHE'] = ''"
COMMANDS = {
    "import typer, rich, pydantic, yaml": ["-c", "import typer, rich, pydantic, yaml"],
    "the same, with pydantic's BaseModel": [
        "-c", "import typer, rich, yaml; from pydantic import BaseModel, Discriminator, Field, Tag, model_validator"
    ],
    "txcalc count gpt3": ["-c", CALL, "count", "gpt3"],
    "txcalc count gpt2": ["-c", CALL, "count", "gpt2"],
    "txcalc explain gpt2 params": ["-c", CALL, "explain", "gpt2", "params"],
    "txcalc attention gpt2": ["-c", CALL, "attention", "gpt2"],
    "txcalc presets": ["-c", CALL, "presets"],
    "txcalc compare gpt2 gpt3 llama3-8b t5-base": ["-c", CALL, "compare", "gpt2", "gpt3", "llama3-8b", "t5-base"],
    "txcalc count gpt3, anew": ["-c", f"{NO_CACHE}; {CALL}", "count", "gpt3"],
    "txcalc count own.yaml": ["-c", CALL, "count", "own.yaml"],
    "txcalc count own.yaml, anew": ["-c", f"{NO_CACHE}; {CALL}", "count", "own.yaml"],
    "txcalc count config.json": ["-c", CALL, "count", "config.json"],
    "txcalc count config.json, anew": ["-c", f"{NO_CACHE}; {CALL}", "count", "config.json"],
    "txcalc count gpt3 --set layers=1": ["-c", CALL, "count", "gpt3", "--set", "layers=1"],
    "txcalc count gpt3 --set layers=10^30": ["-c", CALL, "count", "gpt3", "--set", f"layers={10**30}"],
}


def seconds(arguments: list[str]) -> float:
    """Wall time of one run in a fresh interpreter."""
    # As installed: with the compiled modules that pip writes.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, env=environment)
    return time.perf_counter() - start


def write_models(folder: Path) -> None:
    """A spec and a configuration of one's own."""
    spec = next(ROOT.glob("presets/*/llama3-8b.yaml"))
    (folder / "own.yaml").write_text(spec.read_text().replace("name: llama3-8b", "name: own"))
    facts = json.loads((ROOT / "tests" / "data" / "conformance.json").read_text())
    (folder / "config.json").write_text(json.dumps(facts["llama-3-8b"]["config"]))


def main() -> None:
    """Print the median of every command and its ratio to the first."""
    with TemporaryDirectory() as folder, contextlib.chdir(folder):
        write_models(Path(folder))
        measure()


def measure() -> None:
    """Run every command so often."""
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for run in range(RUNS + 1):
        for name, arguments in COMMANDS.items():
            took = seconds(arguments)
            if run:  # the first one fills the caches
                times[name].append(took)
    base = median(times[next(iter(COMMANDS))])
    for name, found in times.items():
        print(f"{name:43} {median(found) * 1000:7.1f} ms  {median(found) / base:5.2f}×")


if __name__ == "__main__":
    main()
