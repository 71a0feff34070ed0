"""Count every preset with an installed txcalc, from a directory outside the checkout: both are the arguments."""

import json
import subprocess
import sys


def main() -> None:
    program, elsewhere = sys.argv[1:]

    def run(*arguments: str) -> str:
        return subprocess.run(
            [program, *arguments], cwd=elsewhere, check=True, capture_output=True, text=True
        ).stdout

    names = [row["name"] for row in json.loads(run("presets", "--json"))["presets"]]
    assert names, "no presets in the wheel"
    for name in names:
        totals = json.loads(run("count", name, "--json"))["totals"]
        assert totals["params"]["value"] > 0, name
    print(f"{len(names)} presets counted by the installed wheel")


if __name__ == "__main__":
    main()
