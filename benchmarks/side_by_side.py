"""Runs side by side on one device: what `--runs_per_device` K gains, for several K; fits ten minutes of a GPU.

python benchmarks/side_by_side.py --per_device 1 2                                 # CPU, the quickstart's encoder
python benchmarks/side_by_side.py --shape bert-base --max_steps 60 --task tasks/task5.yaml --data_dir DIR

Each K trains the same runs (members x five folds, at least as many as the largest K) in a folder of its own, the Ks in
random order. Counted is the time from the first run's beginning to the last one's end, evaluations and predictions
included, by the runs' own histories: start-up is not in it.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from datasets import Dataset
from speed import ROOT, encoder_folder, rate_of_products  # which finds the project
from transformers import AutoConfig, AutoModel

from smm4h.data.dataset import column

MEMBERS = ("last2-pooler-42", "last3-42", "last2-pooler-24", "last3-pooler-42")
PIECES = 46  # of a tweet, for the matrix rate
TASK5 = 45 * 3 * 18_397 * 4 / 5  # tweets that the paper's 45 runs of task 5 train


def main() -> None:
    arguments = read_arguments()
    order = random.sample(arguments.per_device, len(arguments.per_device))
    with tempfile.TemporaryDirectory() as name:
        encoder = arguments.encoder or encoder_folder(arguments.shape, Path(name))
        ceiling = rate_of_products(AutoConfig.from_pretrained(encoder).hidden_size, 16 * PIECES)
        measured = {k: measure(Path(name) / f"{k}", k, encoder, arguments) for k in order}
        tell(measured, encoder, ceiling)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--per_device", type=int, nargs="+", default=[1, 2, 4, 8], help="the Ks (default: 1 2 4 8)")
    parser.add_argument("--shape", choices=["quickstart", "bert-base"], default="quickstart", help="the encoder, or")
    parser.add_argument("--encoder", help="a name on the Hub or a folder")
    parser.add_argument("--task", default="tasks/task5.yaml", help="task file")
    parser.add_argument("--data_dir", default="quickstart/data", help="the task's files, by their official names")
    parser.add_argument("--tweets", type=int, default=400, help="labelled tweets kept (default: 400)")
    parser.add_argument("--max_steps", type=int, default=40, help="steps of each run (default: 40)")
    return parser.parse_args()


@dataclass
class Measured:
    """What the runs of one K took."""

    seconds: float
    tweets: int
    pieces: float


def measure(output: Path, k: int, encoder: str, arguments: argparse.Namespace) -> Measured:
    """From the first run's beginning to the last one's end, and what was trained meanwhile."""
    members = MEMBERS[: max(2, -(-max(arguments.per_device) // 5))]
    words = ["recipes/smm4h2020.yaml", "--task", arguments.task, "--data_dir", arguments.data_dir]
    words += ["--model_name_or_path", encoder, "--output_dir", output, "--members", *members]
    words += ["--runs_per_device", k, "--keep_models", "none", "--max_steps", arguments.max_steps]
    words += ["--max_train_samples", arguments.tweets, "--max_predict_samples", 100]
    subprocess.run([sys.executable, "run_classification.py", *map(str, words)], cwd=ROOT, check=True)
    moments, tweets = [], 0
    for run in output.glob("*/fold-[0-9]"):
        events = [json.loads(line) for line in (run / "attempts.jsonl").read_text().splitlines()]
        moments += [datetime.fromisoformat(event["time"]) for event in events]
        tweets += 16 * arguments.max_steps
    tables = [Dataset.from_file(str(path)) for path in output.glob("tokens/labelled-*.arrow")]
    lengths = np.concatenate([column(table, "length").to_numpy() for table in tables])
    seconds = (max(moments) - min(moments)).total_seconds()
    return Measured(seconds, tweets, tweets * float(lengths.mean()))


def tell(measured: dict[int, Measured], encoder: str, ceiling: float) -> None:
    model = AutoModel.from_config(AutoConfig.from_pretrained(encoder))
    weights = sum(p.numel() for name, p in model.named_parameters() if "embeddings" not in name)
    first = measured[min(measured)]
    pieces = first.pieces / first.tweets
    print(f"\n{pieces:.1f} word pieces a tweet; bf16 matrix products of a batch: {ceiling / 1e12:.2f} TFLOP/s")
    print("runs per device | seconds | tweets/s | against the first | of the matrix rate | 45 runs of task 5, minutes")
    for k, one in sorted(measured.items()):
        rate = one.tweets / one.seconds
        share = 100 * 6 * weights * one.pieces / one.seconds / ceiling
        gain = first.seconds / one.seconds
        print(f"{k:15} | {one.seconds:7.1f} | {rate:8.0f} | {gain:17.2f} | {share:16.1f} % | {TASK5 / rate / 60:26.1f}")


if __name__ == "__main__":
    main()
