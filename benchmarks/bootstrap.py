"""Intervals of a mean and of a retention: 500 samples that are taken at once, against one after the other.

Milliseconds and ratio for several numbers of images; the two take turns, shortest of some times each.
"""

import argparse
import time

import torch
from torch import Tensor

from rcdm.measures.metrics import bootstrap, variance


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", nargs="+", type=int, default=[16, 64, 128, 1000, 5000])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print("| statistic | images | one by one, ms | at once, ms | ratio |\n|---|---|---|---|---|")
    for n in options.images:
        values, phi = torch.rand(n), torch.randn(n, 4)

        def mean(i: Tensor, values: Tensor = values) -> Tensor:
            return values[i].mean()

        def retention(i: Tensor, values: Tensor = values, phi: Tensor = phi) -> Tensor:
            return 1 - values[i].mean() / variance(phi[i])

        for statistic in (mean, retention):
            taken: dict[bool, list[float]] = {False: [], True: []}
            for _ in range(options.repeats):
                for at_once, times in taken.items():
                    begun = time.perf_counter()
                    bootstrap(statistic, n, vectorised=at_once)
                    times.append(1000 * (time.perf_counter() - begun))
            plain, own = min(taken[False]), min(taken[True])
            print(f"| {statistic.__name__} | {n} | {plain:.1f} | {own:.1f} | {own / plain:.2f} |")


if __name__ == "__main__":
    main()
