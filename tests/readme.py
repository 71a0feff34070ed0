"""The README's command outputs: generated here, checked by tests/test_readme.py. Run: python tests/readme.py

A block is a console fence that starts with ``$ txcalc ...``; everything after its first line is the output.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
BLOCK = re.compile(r"^```console\n\$ (txcalc [^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
# Needs PyTorch and minutes: its output is checked where validation runs, not each time the README is.
SLOW = ("txcalc validate",)


def output(command: str) -> str:
    program = [sys.executable, "-m", "txcalc", *shlex.split(command)[1:]]
    environment = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1", "PYTHONUTF8": "1"}
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, env=environment, check=False)
    return "".join(line.rstrip() + "\n" for line in (done.stdout + done.stderr).splitlines())


def blocks(text: str) -> list[tuple[str, str]]:
    return [(match[1], match[2]) for match in BLOCK.finditer(text) if not match[1].startswith(SLOW)]


def regenerate(text: str) -> str:
    def fill(match: re.Match[str]) -> str:
        if match[1].startswith(SLOW):
            return match[0]
        return f"```console\n$ {match[1]}\n{output(match[1])}```"

    return BLOCK.sub(fill, text)


if __name__ == "__main__":
    README.write_text(regenerate(README.read_text("utf-8")), "utf-8")
