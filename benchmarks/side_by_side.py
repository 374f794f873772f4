"""Runs side by side on one device: what `--runs_per_device` K gains, on the quickstart's tweets, for several K.

python benchmarks/side_by_side.py --per_device 1 2 4 8 --encoder dmis-lab/biobert-base-cased-v1.1

Each K trains the same ten runs (two members x five folds) in a folder of its own, the Ks in random order. Counted is
the time from the first run's beginning to the last one's end, by the runs' own histories: start-up is not in it.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path

ROOT = Path(__file__).parents[1]
MEMBERS = ("last2-pooler-42", "last3-42")


def main() -> None:
    arguments = read_arguments()
    order = random.sample(arguments.per_device, len(arguments.per_device))
    with tempfile.TemporaryDirectory() as name:
        measured = {k: measure(Path(name) / f"{k}", k, arguments) for k in order}
    tell(measured)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--per_device", type=int, nargs="+", default=[1, 2, 4, 8], help="the Ks (default: 1 2 4 8)")
    parser.add_argument("--encoder", help="a name on the Hub or a folder (default: the quickstart's)")
    parser.add_argument("--epochs", type=float, default=3.0, help="epochs of each run (default: 3)")
    return parser.parse_args()


def measure(output: Path, k: int, arguments: argparse.Namespace) -> tuple[float, int]:
    """Seconds from the first run's beginning to the last one's end, and tweets trained meanwhile."""
    encoder = arguments.encoder or _printed(ROOT / "quickstart" / "encoder.py")
    words = ["recipes/quickstart.yaml", "--task", "tasks/task5.yaml", "--data_dir", "quickstart/data"]
    words += ["--model_name_or_path", encoder, "--output_dir", output, "--members", *MEMBERS]
    words += ["--runs_per_device", k, "--keep_models", "none", "--num_train_epochs", arguments.epochs]
    subprocess.run([sys.executable, "run_classification.py", *map(str, words)], cwd=ROOT, check=True)
    moments, tweets = [], 0
    for run in output.glob("*/fold-[0-9]"):
        events = [json.loads(line) for line in (run / "attempts.jsonl").read_text().splitlines()]
        moments += [datetime.fromisoformat(event["time"]) for event in events]
        tweets += round(json.loads((run / "metrics.json").read_text())["training_tweets"] * arguments.epochs)
    return (max(moments) - min(moments)).total_seconds(), tweets


def _printed(script: Path) -> str:
    return subprocess.run([sys.executable, script], capture_output=True, text=True, check=True).stdout.strip()


def tell(measured: dict[int, tuple[float, int]]) -> None:
    print("runs per device | seconds for ten runs | tweets trained per second | against the first")
    first = measured[min(measured)][0]
    for k, (seconds, tweets) in sorted(measured.items()):
        print(f"{k:15} | {seconds:20.0f} | {tweets / seconds:25.0f} | {first / seconds:17.2f}")


if __name__ == "__main__":
    main()
