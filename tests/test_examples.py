"""Every command has an example in its help, and it runs."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from txcalc.cli.app import COMMANDS

CONFIG = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 2}


def run(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "txcalc", *arguments], cwd=directory, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "PYTHONUTF8": "1"},
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_the_example_in_the_help_runs(command: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    examples = re.findall(r"Example: txcalc ([^\n]+)", run(tmp_path, command, "--help").stdout)
    assert examples, f"txcalc {command} --help shows no example"
    if command == "validate":
        pytest.importorskip("torch")
    for example in examples:
        done = run(tmp_path, *shlex.split(example))
        assert done.returncode == 0, done.stderr
        assert done.stdout
