"""The outputs in the README and in docs/: generated here, checked by tests/test_readme.py. Run: python tests/readme.py

A block is a console fence that starts with ``$ txcalc ...``; everything after its first line is the output.
"""

import ast
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
BLOCK = re.compile(r"^```console\n\$ (txcalc [^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
ROOMS = re.compile(r"(?<=<!-- rooms -->\n).*?(?=<!-- /rooms -->)", re.DOTALL)


PROGRAM = """import runpy, sys
sys.modules.update(dict.fromkeys(('bitsandbytes', 'lion_pytorch', 'torchao')))
runpy.run_module("txcalc", run_name="__main__", alter_sys=True)"""
"""The command line, where no optimizer's package is installed: ``validate`` has one more row for each of them."""


def output(command: str) -> str:
    program = [sys.executable, "-c", PROGRAM, *shlex.split(command)[1:]]
    environment = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1", "PYTHONUTF8": "1", "TXCALC_PRESETS": ""}
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, env=environment, check=False)
    return "".join(line.rstrip() + "\n" for line in (done.stdout + done.stderr).splitlines())


def blocks(text: str) -> list[tuple[str, str]]:
    return [(match[1], match[2]) for match in BLOCK.finditer(text)]


def rooms() -> str:
    """Every package with the first sentence of its docstring."""
    lines = ["", "| room | what lives there |", "|---|---|"]
    for path in sorted((ROOT / "txcalc").rglob("__init__.py"), key=lambda p: p.parent.as_posix()):
        doc = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
        first = " ".join(doc.split("\n\n")[0].split())
        lines.append(f"| `{path.parent.relative_to(ROOT).as_posix()}/` | {first} |")
    return "\n".join([*lines, "", ""])


def regenerate(text: str) -> str:
    text = BLOCK.sub(lambda match: f"```console\n$ {match[1]}\n{output(match[1])}```", text)
    return ROOMS.sub(lambda _: rooms(), text)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(regenerate(page.read_text("utf-8")), "utf-8")
    (ROOT / "presets" / "preset.schema.json").write_text(output("txcalc schema preset"), "utf-8")
