"""One rank counted beside the undivided model, in turn: CPU time in this process, the least. At most 1.5 times."""

import time

import txcalc

RUNS, MOST = 25, 1.5
RANKS = (("gpt3", {"tp": 8, "pp": 8}), ("llama3-70b", {"tp": 8, "pp": 4}), ("llama3-70b", {"tp": 8}),
         ("llama3-70b", {"pp": 4}), ("deepseek-v3", {"pp": 16, "ep": 8, "dp": 8}), ("mixtral-8x7b", {"tp": 4}))


def main() -> None:
    for model, layout in RANKS:
        found: tuple[list[float], list[float]] = [], []
        for _ in range(RUNS):
            for each, options in zip(found, ({}, layout), strict=True):
                start = time.process_time()
                txcalc.count(model, **options)
                each.append(1000 * (time.process_time() - start))
        whole, rank = map(min, found)
        over = "" if rank <= MOST * whole else f", more than {MOST}"
        print(f"{model:13} {layout!s:32} {whole:6.2f} {rank:6.2f} ms {rank / whole:5.2f}×{over}")


if __name__ == "__main__":
    main()
