"""One optimizer step on the weights of BERT-base: ours, torch's RAdam, torch's fused AdamW, in random order, medians.

python benchmarks/radam.py
"""

import random
import statistics
import time

import torch
from transformers import BertConfig, BertModel

from smm4h.training.optim import RAdam

OPTIMIZERS = {
    "torch.optim.AdamW, fused": lambda weights: torch.optim.AdamW(weights, lr=1e-5, fused=True),
    "RAdam of smm4h": lambda weights: RAdam(weights, lr=1e-5),
    "torch.optim.RAdam, foreach": lambda weights: torch.optim.RAdam(weights, lr=1e-5, foreach=True),
    "torch.optim.RAdam": lambda weights: torch.optim.RAdam(weights, lr=1e-5, foreach=False),
}


def main(repeats: int = 15) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    weights = list(BertModel(BertConfig()).to(device).parameters())
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    optimizers = {name: make(weights) for name, make in OPTIMIZERS.items()}
    for optimizer in optimizers.values():
        for _ in range(7):  # past RAdam's first steps, which have another form
            optimizer.step()
    seconds = {name: [] for name in optimizers}
    for _ in range(repeats):
        for name, optimizer in random.sample(list(optimizers.items()), len(optimizers)):  # none always follows another
            started = time.perf_counter()
            optimizer.step()
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - started)
    fused = statistics.median(seconds["torch.optim.AdamW, fused"])
    for name, taken in seconds.items():
        print(f"{name:<28} {statistics.median(taken) / fused:5.2f} x fused AdamW")


if __name__ == "__main__":
    main()
