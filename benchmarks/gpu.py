"""What a GPU makes of this project, in one call of some minutes; the table comes last, and --output keeps it as JSON.

python benchmarks/gpu.py --minutes 9 --output gpu.json              # BERT-base's shape, random weights, invented tweets
python benchmarks/gpu.py --parts steps bytes
python benchmarks/gpu.py --tiny                                     # shows on a CPU that it runs, and measures nothing

Parts, in this order, each left out where less time is left than it may take:
ceilings       matrix products in the training's precision, and copies
steps          training, in one process: a stock Trainer, our plain path, ours
bytes          the same runs twice, and killed and resumed: are their predictions the same bytes?
side_by_side   `--runs_per_device` 1, 2, 4, 8
streams        `--streams_per_device` 1, 2, 4, 8 of one process, and of two and three
job            the paper's 45 runs on as many tweets as task 5 has, from the command to the zip, as many at a time as
               was fastest in the parts before, or as `--at_a_time` says; where the time left is too short for all
               steps, fewer of a run, and the whole is worked out from them
predict        predict.py on 200,000 tweets by one model of each of the job's members
joint          one run by all GPUs, DDP and ZeRO-2, where there are two
"""

import argparse
import csv
import hashlib
import json
import math
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import numpy as np
import torch
import transformers
import yaml
from speed import CONTENDERS, DEVICE, ROOT, World, contest, encoder_folder, rate_of_products, weights_beside_embeddings
from transformers import AutoTokenizer

from smm4h.models.predictors import best_precision
from smm4h.utils.console import silence_libraries

LABELS, SHARES = ["1", "2", "3"], (0.05, 0.06, 0.89)
PIECES, SPREAD = 43, 16  # word pieces of a tweet, mean and standard deviation, as in task 5
STEPS_A_RUN = 3 * 18_397 * 4 // 5 // 16  # of the paper's recipe on task 5
START = 25.0  # seconds from the command to the first step, and from the last one to the zip, at most


@dataclass(frozen=True)
class Size:
    """How much each part works on."""

    shape: str = "bert-base"
    labelled: int = 18_397
    test: int = 4_602
    new: int = 200_000
    tweets_of_steps: int = 2_400
    few: int = 800  # labelled tweets of the parts that need no more
    per_device: tuple[int, ...] = (1, 2, 4, 8)
    at_a_time_steps: int = 400  # of a run, where runs are trained at a time
    both: tuple[tuple[int, int], ...] = ((2, 2), (2, 4), (3, 2))  # processes, and streams of each
    max_steps: int = 60
    some_members: tuple[str, ...] = ("last2-pooler-42", "last3-42")  # of the parts that need no more
    some_folds: tuple[int, ...] = (0, 1, 2, 3)
    twice_folds: tuple[int, ...] = (0, 1)  # of one member, trained three times
    job_members: int = 9
    flags: tuple[str, ...] = ()


TINY = Size(
    *("tiny", 300, 20, 50, 260, 160, (2,), 4, (), 4),
    *(("bigru-42",), (0,), (0,), 1, ("--use_cpu", "--n_folds", "2")),
)


@dataclass
class Bench:
    """The measured machine: its files, its time, and what was found."""

    size: Size
    folder: Path
    deadline: float
    encoder: str
    at_a_time: list | None = None  # flags of the job; None: what was fastest
    fastest: tuple[float, list] = (math.inf, [])  # milliseconds of a run's step with all that belongs to it, and flags
    found: dict[str, dict] = field(default_factory=dict)

    @property
    def seconds_left(self) -> float:
        return self.deadline - time.perf_counter()

    def run(self, *words) -> float:
        """Run a script of the project; return its seconds. Raises `RuntimeError` with the end of what it complained."""
        started, words = time.perf_counter(), [sys.executable, *map(str, words)]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=self.seconds_left)
        if done.returncode:
            raise RuntimeError(f"{words[1]} ends with code {done.returncode}: {done.stderr[-300:].strip()}")
        return time.perf_counter() - started

    def job(self, output: Path, members: Sequence[str], max_steps: int | None) -> list:
        """Return the words of a training command."""
        words = ["run_classification.py", self.folder / "recipe.yaml", "--task", self.folder / "task.yaml"]
        words += ["--data_dir", self.folder, "--model_name_or_path", self.encoder, "--output_dir", output]
        words += ["--baselines", "none", *self.size.flags]
        words += ["--members", *members] if members else []
        return words + (["--max_steps", max_steps] if max_steps else [])

    def some_runs(self, output: Path, members: Sequence[str] = (), folds: Sequence[int] = (), steps: int = 0) -> list:
        """Return the words of a command that trains some runs on some tweets, and keeps no model."""
        size = self.size
        words = [*self.job(output, members or size.some_members, steps or size.max_steps), "--keep_models", "none"]
        words += ["--folds", *(folds or size.some_folds)]
        return [*words, "--max_train_samples", size.few, "--max_predict_samples", size.few // 4]


def main() -> None:
    arguments = read_arguments()
    silence_libraries()
    transformers.utils.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as name:
        bench = start(arguments, Path(name))
        for part in arguments.parts:
            measure(bench, part)
    if arguments.output:
        arguments.output.write_text(json.dumps(bench.found, indent=2) + "\n", encoding="utf-8")
    tell(bench)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure (default: all)")
    parser.add_argument("--minutes", type=float, default=9.0, help="of the whole call (default: 9)")
    parser.add_argument("--tiny", action="store_true", help="a few tweets on a CPU: show that it runs")
    parser.add_argument("--at_a_time", type=int, nargs=2, help="processes, and streams of each, of the job part")
    parser.add_argument("--tokenizer", help="encoder whose tokenizer is used (default: the quickstart's)")
    parser.add_argument("--output", type=Path, help="JSON file of all figures")
    return parser.parse_args()


def start(arguments: argparse.Namespace, folder: Path) -> Bench:
    size = TINY if arguments.tiny else Size()
    deadline = time.perf_counter() + 60 * arguments.minutes
    flags = flags_of(*arguments.at_a_time) if arguments.at_a_time else None
    bench = Bench(size, folder, deadline, encoder_folder(size.shape, folder, arguments.tokenizer), flags)
    write_tweets(folder, size, bench.encoder)
    write_recipe(folder, size.job_members)
    device = torch.cuda.get_device_name() if DEVICE == "cuda" else platform.processor() or platform.machine()
    versions = f"torch {torch.__version__}, CUDA {torch.version.cuda}, transformers {transformers.__version__}"
    bench.found["machine"] = {"device": device, "versions": versions, "precision": best_precision(DEVICE)}
    print(f"{device}; {versions}; {best_precision(DEVICE)}; {arguments.minutes:g} minutes", flush=True)
    return bench


def measure(bench: Bench, part: str) -> None:
    """Measure a part, or note why not; what the other parts have found is never lost."""
    if bench.seconds_left < 20:
        bench.found[part] = {"left out": "no time was left"}
        return
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    try:
        bench.found[part] = PARTS[part](bench)
    except Exception as error:
        bench.found[part] = {"failed": f"{type(error).__name__}: {error}"[:400]}
    bench.found[part]["of all seconds"] = round(time.perf_counter() - started, 1)
    print(part, json.dumps(bench.found[part]), flush=True)


def write_tweets(folder: Path, size: Size, encoder: str) -> None:
    """Write invented labelled and test tweets, of real lengths, and their task file; a rare tweet says so in a word."""
    rng = random.Random(0)
    words = [word for word in AutoTokenizer.from_pretrained(encoder).get_vocab() if word.isalpha() and len(word) > 2]
    words.sort()

    def tweet(label: str) -> str:
        length = min(105, max(4, round(rng.gauss(PIECES, SPREAD))))
        return " ".join([*rng.choices(words, k=length), {"1": "defect", "2": "perhaps"}.get(label, "healthy")])

    for name, n_tweets in (("labelled", size.labelled), ("test", size.test)):
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file)
            table.writerow(["id", "text", "label"])
            for number, label in enumerate(rng.choices(LABELS, SHARES, k=n_tweets)):
                table.writerow([f"{name}{number}", tweet(label), label])
    task = {
        "name": "invented",
        "labels": LABELS,
        "positive": LABELS[:2],
        "columns": {"id": "id", "text": "text", "label": "label"},
        "files": {"training": "labelled.csv", "test": "test.csv"},
        "submission": {"file": "answer.tsv", "columns": ["id", "label"]},
    }
    (folder / "task.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")


def write_recipe(folder: Path, n_members: int) -> None:
    """Write the paper's recipe; with fewer members, none of them has pseudo labels."""
    recipe = yaml.safe_load((ROOT / "recipes" / "smm4h2020.yaml").read_text(encoding="utf-8"))
    if n_members < len(recipe["members"]):
        recipe["members"] = dict(list(recipe["members"].items())[:n_members])
        recipe["shared"].pop("pseudo_teachers")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")


def ceilings(bench: Bench) -> dict:
    """Operations per second of a feed-forward layer's products on one batch and on ten, and bytes copied per second."""
    width = transformers.AutoConfig.from_pretrained(bench.encoder).hidden_size
    rates = {n: rate_of_products(width, n * 16 * PIECES) for n in (1, 10)}
    source = torch.empty(2**28 if DEVICE == "cuda" else 2**22, dtype=torch.uint8, device=DEVICE)
    target, taken = torch.empty_like(source), []
    for _ in range(12):
        begun = time.perf_counter()
        target.copy_(source)
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - begun)
    copied = 2 * source.numel() / float(np.median(taken[2:]))
    return {"TFLOP/s": {n: rate / 1e12 for n, rate in rates.items()}, "TB/s": copied / 1e12}


def steps(bench: Bench) -> dict:
    """Tweets a second and milliseconds a step of each contender, and its share of the matrix rate."""
    arguments = argparse.Namespace(
        shape=bench.size.shape,
        task=bench.folder / "task.yaml",
        data_dir=bench.folder,
        tweets=bench.size.tweets_of_steps,
    )
    world = World.build(arguments, bench.folder / "steps", bench.encoder)
    weights, rows = weights_beside_embeddings(world), {}
    for name, all_ in contest(world, 2 if DEVICE == "cuda" else 1, list(CONTENDERS)[1:]).items():
        one = max(all_, key=lambda found: found.tweets / found.seconds)  # the first one starts the device
        rate = one.tweets / one.seconds
        share = 6 * weights * one.pieces / one.seconds / one.ceiling
        rows[name] = {"tweets/s": rate, "ms a step of 16": 16e3 / rate, "of the matrix rate": share}
    peak = torch.cuda.max_memory_allocated() / 2**30 if DEVICE == "cuda" else None
    return {"rows": rows, "GiB at most": peak}


def answers(output: Path) -> dict[str, str]:
    """Return the hashes of all probabilities that a job's runs have predicted."""
    files = sorted(path for pattern in ("*/fold-*/*.parquet", "*/fold-*/*.npz") for path in output.glob(pattern))
    return {str(path.relative_to(output)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def same_bytes(bench: Bench) -> dict:
    """Train the same runs three times, the third time killed on the way and resumed, and compare their answers."""
    folders = [bench.folder / name for name in ("once", "twice", "killed")]
    runs = bench.size.some_members[:1], bench.size.twice_folds
    words = [[*bench.some_runs(folder, *runs), "--save_minutes", 0.02] for folder in folders]
    seconds = bench.run(*words[0])
    bench.run(*words[1])
    process = subprocess.Popen([sys.executable, *map(str, words[2])], cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        process.wait(0.75 * seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    killed_after = len(answers(folders[2]))
    bench.run(*words[2])
    once, twice, killed = map(answers, folders)
    return {
        "files": len(once),
        "twice": once == twice,
        "killed and resumed": once == killed,
        "done when killed": killed_after,
    }


def side_by_side(bench: Bench) -> dict:
    """Train the same runs with 1, 2, ... processes on a device."""
    return at_a_time(bench, [(k, 1) for k in bench.size.per_device])


def streams(bench: Bench) -> dict:
    """Train the same runs with 1, 2, ... streams of one process, and of several."""
    return at_a_time(bench, [*((1, k) for k in bench.size.per_device), *bench.size.both])


def flags_of(n_processes: int, n_streams: int) -> list:
    """Return the flags of so many processes on a device, and streams of each."""
    return ["--runs_per_device", n_processes, "--streams_per_device", n_streams]


def at_a_time(bench: Bench, numbers: Sequence[tuple[int, int]]) -> dict:
    """Return the tweets a second by the number of runs at a time, and whether answers are equal.

    From the beginning of the first run to the end of the last one, evaluations, predictions and files included.

    Args:
        numbers: of processes, and of streams of each.
    """
    rows, alone, n_steps = {}, None, bench.size.at_a_time_steps
    for n_processes, n_streams in numbers:
        if bench.seconds_left < 2 * max([START, *(row["seconds"] for row in rows.values())]):
            break
        name = f"{n_processes} x {n_streams}"
        output = bench.folder / f"at_a_time {len(numbers)} {name}"
        flags = flags_of(n_processes, n_streams)
        seconds = bench.run(*bench.some_runs(output, steps=n_steps), *flags)
        alone = alone or answers(output)
        n_runs, busy = runs_of(output)
        milliseconds = 1e3 * busy / (n_runs * n_steps)
        bench.fastest = min(bench.fastest, (milliseconds, flags))
        rows[name] = {
            "seconds": seconds,
            "from the first run's beginning to the last one's end": busy,
            "ms a run's step": milliseconds,
            "tweets/s": 16e3 / milliseconds,
            "bytes of the first": answers(output) == alone,
        }
    return {"rows": rows}


def runs_of(output: Path) -> tuple[int, float]:
    """Return how many runs a job has, and the seconds from the first one's beginning to the last one's end."""
    logs = [path.read_text(encoding="utf-8").splitlines() for path in output.glob("*/fold-*/attempts.jsonl")]
    times = [datetime.fromisoformat(json.loads(line)["time"]) for log in logs for line in log]
    return len(logs), (max(times) - min(times)).total_seconds()


def whole_job(bench: Bench) -> dict:
    """Train the paper's members on as many tweets as task 5 has, vote, and write the zip."""
    alone = bench.found.get("steps", {}).get("rows", {}).get("ours", {"ms a step of 16": 30.0})["ms a step of 16"]
    ours, fastest = bench.fastest if bench.fastest[1] else (alone, [])  # a step alone counts no evaluations and files
    flags = bench.at_a_time or fastest
    room = 0.7 * bench.seconds_left - START
    share = room / (45 * STEPS_A_RUN * ours / 1e3)
    max_steps = bench.size.max_steps if bench.size is TINY else min(STEPS_A_RUN, max(20, int(share * STEPS_A_RUN)))
    output = bench.folder / "job"
    words = bench.job(output, (), None if max_steps == STEPS_A_RUN else max_steps)
    seconds = bench.run(*words, *flags, "--keep_models", "best")
    n_runs, made = len(list(output.glob("*/fold-*/DONE"))), list((output / "submission").glob("*.zip"))
    result = {"flags": " ".join(map(str, flags)), "runs": n_runs, "steps a run": max_steps}
    result |= {"seconds": seconds, "zip": bool(made)}
    if max_steps < STEPS_A_RUN:
        result["minutes of all steps, worked out"] = (seconds + n_runs * (STEPS_A_RUN - max_steps) * ours / 1e3) / 60
    return result


def predict(bench: Bench) -> dict:
    """Return the tweets a second of predict.py by the job's models, start-up included."""
    source, target = bench.folder / "test.csv", bench.folder / "new.csv"
    rows = list(csv.DictReader(source.open(encoding="utf-8", newline="")))
    with target.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["id", "text"])
        table.writerows([number, rows[number % len(rows)]["text"]] for number in range(bench.size.new))
    flags = ["--use_cpu"] if bench.size is TINY else []
    seconds = bench.run("predict.py", bench.folder / "job", target, "--output", bench.folder / "labels.csv", *flags)
    return {"tweets": bench.size.new, "seconds": seconds, "tweets/s": bench.size.new / seconds}


def joint(bench: Bench) -> dict:
    """Train one run by all GPUs, with DDP and with ZeRO-2."""
    n_gpus = torch.cuda.device_count() if DEVICE == "cuda" else 0
    if n_gpus < 2:
        return {"left out": "there are no two GPUs"}
    rows, kinds = {}, {"DDP": ["--multi_gpu"], "ZeRO-2": ["--use_deepspeed", "--zero_stage", 2]}
    for name, flags in kinds.items():
        words = [*bench.some_runs(bench.folder / name, bench.size.some_members[:1], (0,)), "--parallel", "data"]
        launch = ["-m", "accelerate.commands.launch", "--num_processes", n_gpus, *flags]
        rows[name] = {"seconds": bench.run(*launch, *words)}
    return {"rows": rows}


PARTS: dict[str, Callable[[Bench], dict]] = {
    "ceilings": ceilings,
    "steps": steps,
    "bytes": same_bytes,
    "side_by_side": side_by_side,
    "streams": streams,
    "job": whole_job,
    "predict": predict,
    "joint": joint,
}


def tell(bench: Bench) -> None:
    """Print all figures, a line each."""
    print(f"\n{'part':<14} {'what':<62} found")
    for part, found in bench.found.items():
        for name, value in lines_of(found):
            print(f"{part:<14} {name:<62} {f'{value:.4g}' if isinstance(value, float) else value}")


def lines_of(found: dict, before: str = "") -> list[tuple[str, object]]:
    """Return the leaves of nested figures, each by its path."""
    lines = []
    for name, value in found.items():
        path = f"{before}{name}" if name != "rows" else before.rstrip(": ")
        lines += lines_of(value, f"{path}: " if path else "") if isinstance(value, dict) else [(path, value)]
    return lines


if __name__ == "__main__":
    main()
