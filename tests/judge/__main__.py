"""Judge model types of the installed transformers: ``python -m tests.judge [TYPE ...]``; without any, all.

Prints a verdict for each, and writes it to docs/models.md, the table of what is read.
"""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
warnings.filterwarnings("ignore")
logging.disable(logging.ERROR)


def main(asked: list[str]) -> None:
    from judge.page import all_types, write
    from judge.verdict import judge

    found = {}
    for model_type in asked or all_types():
        found[model_type] = verdict = judge(model_type)
        compared = ", ".join(f"{name} {times}" for name, times in sorted(verdict.compared.items()))
        print(model_type, verdict.word, *filter(None, (compared, verdict.detail)), sep="  ", flush=True)
    write(found)


main(sys.argv[1:])
