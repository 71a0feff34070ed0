"""Count every preset with an installed txcalc, from a directory outside the checkout: both are the arguments.

By its name, then again from the cache, and by its path: the totals must be the same. Without arguments, with the
txcalc that this Python has, in this process.
"""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def here() -> None:
    import txcalc
    from txcalc.models.load import names

    rows = names()
    assert rows, "no presets"
    for row in rows:
        assert txcalc.count(row.name).totals.params.value > 0, row.name
    print(f"{len(rows)} presets counted in one process")


def main() -> None:
    program, elsewhere = sys.argv[1:]

    def run(*arguments: str) -> str:
        return subprocess.run(
            [program, *arguments], cwd=elsewhere, check=True, capture_output=True, text=True
        ).stdout

    rows = json.loads(run("presets", "--json"))["presets"]
    assert rows, "no presets in the wheel"

    def totals(model: str) -> dict[str, Any]:
        return json.loads(run("count", model, "--json"))["totals"]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        first, again = (list(pool.map(totals, [row["name"] for row in rows])) for _ in range(2))
        by_path = pool.map(totals, [row["path"] for row in rows])
    for row, *found in zip(rows, first, again, by_path, strict=True):
        assert found == found[:1] * 3 and found[0]["params"]["value"] > 0, row["name"]
    print(f"{len(rows)} presets counted by the installed wheel")


if __name__ == "__main__":
    main() if sys.argv[1:] else here()
