"""The README's command outputs: generated here, checked by tests/test_readme.py. Run: python tests/readme.py

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
README = ROOT / "README.md"
BLOCK = re.compile(r"^```console\n\$ (txcalc [^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
TREE = re.compile(r"(?<=<!-- tree -->\n).*?(?=<!-- /tree -->)", re.DOTALL)


def output(command: str) -> str:
    program = [sys.executable, "-m", "txcalc", *shlex.split(command)[1:]]
    environment = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1", "PYTHONUTF8": "1", "TXCALC_PRESETS": ""}
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, env=environment, check=False)
    return "".join(line.rstrip() + "\n" for line in (done.stdout + done.stderr).splitlines())


def blocks(text: str) -> list[tuple[str, str]]:
    return [(match[1], match[2]) for match in BLOCK.finditer(text)]


def tree() -> str:
    """Every source file with the first clause of its docstring."""
    lines = ["| file | what it is |", "|---|---|"]
    for path in sorted((ROOT / "txcalc").rglob("*.py"), key=lambda p: (p.parent.as_posix(), p.name)):
        doc = ast.get_docstring(ast.parse(path.read_text("utf-8")))
        if doc and path.name != "__main__.py":
            first = " ".join(doc.split("\n\n")[0].split())
            clause = re.split(r"(?<=[a-z)`\]])[.;:] ", first + " ")[0].rstrip(". ")
            lines.append(f"| `{path.relative_to(ROOT).as_posix()}` | {clause} |")
    return "\n".join(["", *lines, "", ""])


def regenerate(text: str) -> str:
    text = BLOCK.sub(lambda match: f"```console\n$ {match[1]}\n{output(match[1])}```", text)
    return TREE.sub(lambda _: tree(), text)


if __name__ == "__main__":
    README.write_text(regenerate(README.read_text("utf-8")), "utf-8")
    (ROOT / "presets" / "preset.schema.json").write_text(output("txcalc schema preset"), "utf-8")
