"""Tweets trained per second: the authors' loop, a stock Trainer, and ours, interleaved on the same tweets.

python benchmarks/speed.py                                     # the quickstart's encoder and its invented tweets
python benchmarks/speed.py --shape bert-base --task tasks/task5.yaml --data_dir DIR      # random weights, real tweets

Everything from the first step to the last is counted, evaluation aside. Useful work is 6 x the weights beside the
embeddings x the tweets' own word pieces; the ceiling is what torch's bf16 matrix product does on the layers' shapes,
measured beside each repeat (float32 where the machine has no bf16). Seconds mean little on a shared machine: ratios
are of medians, each repeat in random order.
"""

import argparse
import contextlib
import itertools
import json
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig, BertModel, TrainerCallback

from smm4h.config.job import Job
from smm4h.config.plans.plan import make_plan
from smm4h.config.recipe import read_command_line
from smm4h.data.dataset import column
from smm4h.data.folds import write_folds
from smm4h.data.splits import load_splits
from smm4h.data.tokenization import longest_first, token_table
from smm4h.models.predictors import has_bf16
from smm4h.parallel.environment import LaunchEnvironment, set_threads, threads_each
from smm4h.training.building.model import build_model
from smm4h.training.building.run_trainer import make_trainer
from smm4h.training.run_data import prepare_run_data, training_part
from smm4h.training.trainer import predict_proba
from smm4h.utils.console import silence_libraries

ROOT = Path(__file__).parents[1]
TRIAL = {"authors": 8, "stock": 4, "plain": 12}  # steps of a repeat; ours trains all its tweets
BATCH = 16
SHAPES = {  # of encoders with random weights; `tiny` shows that the benchmark runs, and measures nothing
    "bert-base": {},
    "tiny": {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 128},
}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def main() -> None:
    arguments = read_arguments()
    silence_libraries()
    transformers.utils.logging.set_verbosity_error()
    launch = LaunchEnvironment.detect()
    set_threads(threads_each(launch, 1, arguments.threads))
    with tempfile.TemporaryDirectory() as name:
        world = World.build(arguments, Path(name))
        tell_world(world, arguments)
        tell_contest(world, contest(world, arguments.repeats))
        tell_phases(world)
        tell_prediction(world, arguments.repeats)
        if not arguments.no_start:
            tell_start(world)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=["quickstart", *SHAPES], default="quickstart", help="the encoder")
    parser.add_argument("--task", default="tasks/task5.yaml", help="task file")
    parser.add_argument("--data_dir", default="quickstart/data", help="the task's files, by their official names")
    parser.add_argument("--tweets", type=int, default=2400, help="labelled tweets kept (default: 2400)")
    parser.add_argument("--repeats", type=int, default=5, help="repeats of each contender (default: 5)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: all cores)")
    parser.add_argument("--no_start", action="store_true", help="leave out the two jobs that time the start")
    return parser.parse_args()


@dataclass
class World:
    """A run of the paper's recipe, ready to be trained, and what its contenders learn from."""

    job: Job
    run: object
    data: object
    part: object  # the run's training part: token ids and labels
    texts: list[str]
    labels: list[int]
    seconds: dict[str, float] = field(default_factory=dict)

    @classmethod
    def build(cls, arguments: argparse.Namespace, folder: Path, encoder: str | None = None) -> "World":
        """Prepare a run in a folder, by an encoder's folder or by the shape that the arguments name."""
        encoder = encoder or encoder_folder(arguments.shape, folder)
        words = ["recipes/smm4h2020.yaml", "--task", arguments.task, "--data_dir", arguments.data_dir]
        words += ["--model_name_or_path", encoder, "--output_dir", folder / "job", "--members", "last2-pooler-42"]
        words += ["--max_train_samples", arguments.tweets, "--keep_models", "none", "--num_train_epochs", 1]
        with contextlib.chdir(ROOT):
            job = read_command_line([str(word) for word in words])
            started = time.perf_counter()
            tweets = load_splits(job)
        read = time.perf_counter()
        plan = make_plan(job, tweets.content_hashes())
        write_folds(tweets.labelled, plan.folds_file)
        data = prepare_run_data(plan, job, tweets)
        run = plan.wanted[0]
        run.directory.mkdir(parents=True, exist_ok=True)
        part = training_part(run, data, None)
        rows = column(part, "row").to_numpy()
        texts, labels = column(tweets.labelled, "text").take(rows).to_pylist(), column(part, "labels").to_pylist()
        n_tweets = len(tweets.labelled) + len(tweets.test or [])
        seconds = {"read": (read - started) / n_tweets, "tokenise": (time.perf_counter() - read) / n_tweets}
        return cls(job, run, data, part, texts, labels, seconds)

    @property
    def lengths(self):
        return column(self.part, "length").to_numpy()

    def trainer(self, **settings):
        """Return a trainer of the run with other settings, which trains without evaluations."""
        member = self.run.member.with_settings(eval_strategy="no", checkpoint="last", **settings)
        run = replace(self.run, member=member)
        return make_trainer(run, self.data, self.run.directory, self.part, lambda step, steps: None, lambda: False)


def encoder_folder(shape: str, folder: Path, encoder: str | None = None) -> str:
    """Return a folder with an encoder of the shape and another encoder's tokenizer: the quickstart's, if none is named.

    The shape `quickstart` is the other encoder itself.
    """
    if encoder is None:
        command = [sys.executable, ROOT / "quickstart" / "encoder.py"]
        encoder = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    if shape in SHAPES:
        tokenizer = AutoTokenizer.from_pretrained(encoder)
        torch.manual_seed(0)
        BertModel(BertConfig(vocab_size=len(tokenizer), **SHAPES[shape])).save_pretrained(folder / shape)
        tokenizer.save_pretrained(folder / shape)
        encoder = str(folder / shape)
    return encoder


@dataclass
class Found:
    """What one repeat of a contender measured."""

    tweets: int
    pieces: int
    seconds: float
    ceiling: float  # floating point operations per second of the matrix product beside it


class Clock(TrainerCallback):
    """Times a Trainer from the first step to the last."""

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 0:
            self.started = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        self.seconds = time.perf_counter() - self.started


def train_like_the_authors(world: World) -> tuple[int, float]:
    """Micro-batches of one tweet padded to 110 pieces, four to a step, float32, torch's RAdam."""
    model = build_model(world.run.member, world.data.task).train().to(DEVICE)
    tokenizer = AutoTokenizer.from_pretrained(world.run.member.args.model_name_or_path)
    optimizer = torch.optim.RAdam(model.parameters(), lr=3e-5)
    n_tweets = 4 * TRIAL["authors"]
    batches = tokenizer(
        world.texts[:n_tweets], padding="max_length", max_length=110, truncation=True, return_tensors="pt"
    ).to(DEVICE)
    started = time.perf_counter()
    for place in range(n_tweets):
        tweet = slice(place, place + 1)
        outputs = model(batches["input_ids"][tweet], batches["attention_mask"][tweet])
        loss = torch.nn.functional.cross_entropy(outputs.logits, torch.tensor(world.labels[tweet], device=DEVICE))
        (loss / 4).backward()
        if place % 4 == 3:
            optimizer.step()
            optimizer.zero_grad()
    return n_tweets, time.perf_counter() - started


def train_with_a_stock_trainer(world: World) -> tuple[int, float]:
    """transformers' Trainer as its examples use it: 4 x 4, padded to 128, float32, its own defaults otherwise."""
    name = world.run.member.args.model_name_or_path
    tokenizer = AutoTokenizer.from_pretrained(name)
    model = AutoModelForSequenceClassification.from_pretrained(name, num_labels=len(world.data.task.labels))
    n_tweets = BATCH * TRIAL["stock"]
    tokens = tokenizer(world.texts[:n_tweets], padding="max_length", max_length=128, truncation=True)
    rows = [
        {"input_ids": ids, "attention_mask": mask, "labels": label}
        for ids, mask, label in zip(tokens["input_ids"], tokens["attention_mask"], world.labels, strict=False)
    ]
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        settings = transformers.TrainingArguments(
            folder,
            per_device_train_batch_size=4,
            gradient_accumulation_steps=4,
            num_train_epochs=1,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(),
        )
        trainer = transformers.Trainer(model, settings, train_dataset=rows, callbacks=[clock])
        with contextlib.redirect_stdout(None):  # its closing summary
            trainer.train()
    return n_tweets, clock.seconds


def train_plain(world: World) -> tuple[int, float]:
    """Our run without `smm4h.models.padding_free`: padded to the batch, batch 16, bf16 autocast, our RAdam."""
    trainer = world.trainer(packed=False)
    trainer.train_dataset = trainer.train_dataset.select(range(BATCH * TRIAL["plain"]))
    return _timed(trainer)


def train_without_graphs(world: World) -> tuple[int, float]:
    """Our run without `smm4h.training.captured`: on a GPU, each operation is started on its own."""
    trainer = world.trainer(captured=False)
    trainer.train_dataset = trainer.train_dataset.select(range(BATCH * TRIAL["plain"]))
    return _timed(trainer)


def train_ours(world: World) -> tuple[int, float]:
    """Our run with its defaults, all its tweets."""
    return _timed(world.trainer())


def _timed(trainer) -> tuple[int, float]:
    clock = Clock()
    trainer.add_callback(clock)
    trainer.train()
    return len(trainer.train_dataset), clock.seconds


CONTENDERS: dict[str, Callable[[World], tuple[int, float]]] = {
    "the authors' settings (1 x 4, padded to 110, fp32, RAdam)": train_like_the_authors,
    "stock Trainer (4 x 4, padded to 128, fp32)": train_with_a_stock_trainer,
    "ours, --no_packed (padded to the batch)": train_plain,
    **({"ours, --no_captured (no CUDA graphs)": train_without_graphs} if DEVICE == "cuda" else {}),
    "ours": train_ours,
}


def contest(world: World, repeats: int, names: Sequence[str] = tuple(CONTENDERS)) -> dict[str, list[Found]]:
    """Contenders, in random order, as often as asked for."""
    found: dict[str, list[Found]] = {name: [] for name in names}
    for _ in range(repeats):
        for name in random.sample(list(names), len(names)):
            train = CONTENDERS[name]
            before = matrix_rate(world)
            tweets, seconds = train(world)
            ceiling = (before + matrix_rate(world)) / 2
            found[name].append(Found(tweets, int(world.lengths[:tweets].sum()), seconds, ceiling))
    return found


def matrix_rate(world: World) -> float:
    return rate_of_products(encoder_config(world).hidden_size, int(world.lengths.mean() * BATCH))


def rate_of_products(width: int, n_tokens: int) -> float:
    """Operations per second of a feed-forward layer's matrix products on a batch's tokens: a median of 15."""
    kind = torch.bfloat16 if has_bf16(DEVICE) else torch.float32
    a = torch.randn(n_tokens, width, dtype=kind, device=DEVICE)
    b = torch.randn(width, 4 * width, dtype=kind, device=DEVICE)
    at_once = 100 if DEVICE == "cuda" else 1  # a GPU is told about its work in advance
    taken = []
    for _ in range(17):
        started = time.perf_counter()
        for _ in range(at_once):
            torch.mm(a, b)
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        taken.append((time.perf_counter() - started) / at_once)
    return 2 * n_tokens * 4 * width**2 / statistics.median(taken[2:])


def encoder_config(world: World):
    return transformers.AutoConfig.from_pretrained(world.run.member.args.model_name_or_path)


def weights_beside_embeddings(world: World) -> int:
    model = build_model(world.run.member, world.data.task)
    return sum(p.numel() for name, p in model.named_parameters() if ".embeddings." not in name)


def tell_world(world: World, arguments: argparse.Namespace) -> None:
    print(
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads; torch {torch.__version__}, "
    )
    print(f"transformers {transformers.__version__}, Python {platform.python_version()}; bf16: {has_bf16(DEVICE)}")
    print(f"{arguments.shape}, {weights_beside_embeddings(world) / 1e6:.1f} million weights beside the embeddings;")
    print(f"{len(world.part)} tweets of {arguments.data_dir}, {world.lengths.mean():.1f} word pieces on average\n")


def tell_contest(world: World, found: dict[str, list[Found]]) -> None:
    weights = weights_beside_embeddings(world)
    rates = {name: statistics.median(one.tweets / one.seconds for one in all_) for name, all_ in found.items()}
    ours = rates["ours"]
    print(f"{'training':<60} {'tweets/s':>9} {'ours is':>9} {'GFLOP/s':>9} {'of the matrix rate':>19}")
    for name, all_ in found.items():
        work = [6 * weights * one.pieces / one.seconds for one in all_]
        share = statistics.median(rate / one.ceiling for rate, one in zip(work, all_, strict=True))
        row = f"{name:<60} {rates[name]:9.2f} {ours / rates[name]:7.1f} x {statistics.median(work) / 1e9:9.0f}"
        print(f"{row} {100 * share:17.0f} %")
    ceilings = [one.ceiling / 1e9 for all_ in found.values() for one in all_]
    print(
        f"matrix rate: median {statistics.median(ceilings):.0f}, {min(ceilings):.0f} to {max(ceilings):.0f} GFLOP/s\n"
    )


@contextlib.contextmanager
def timed(taken: dict[str, float], name: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    taken[name] = taken.get(name, 0.0) + time.perf_counter() - started


def watch(owner: object, method: str, taken: dict[str, float], name: str) -> None:
    """Has every call of the method timed."""
    call = getattr(owner, method)

    def watched(*args, **kwargs):
        with timed(taken, name):
            return call(*args, **kwargs)

    setattr(owner, method, watched)


def tell_phases(world: World) -> None:
    """What a tweet costs in each phase of a run; on a GPU, the time until it has been told what to do."""
    taken: dict[str, float] = {}
    with timed(taken, "prepare"):
        trainer = world.trainer(packed=True)
    watch(trainer, "get_batch_samples", taken, "batches")
    watch(trainer, "compute_loss", taken, "forward")
    watch(trainer.accelerator, "backward", taken, "backward")
    watch(trainer, "_clip_grad_norm", taken, "norm of the gradients")
    trainer.create_optimizer()
    watch(trainer.optimizer, "step", taken, "optimizer")
    tweets, whole = _timed(trainer)
    phases = ("batches", "forward", "backward", "norm of the gradients", "optimizer")
    taken["the rest of the steps"] = whole - sum(taken[name] for name in phases)
    forward = taken["forward"]  # of the steps; an evaluation has its own
    with timed(taken, "evaluate"):
        evaluated = len(trainer.eval_dataset)
        trainer.evaluate()
    taken["forward"] = forward
    with timed(taken, "save the weights"):
        trainer.save_model(str(world.run.directory / "saved"))
    shutil.rmtree(world.run.directory / "saved")
    print(f"{'phase':<28} {'ms a tweet':>12} {'share of the steps':>20}")
    for name in ("read", "tokenise"):
        print(f"{name:<28} {1e3 * world.seconds[name]:12.3f}   (once for all runs)")
    for name in (*phases, "the rest of the steps"):
        print(f"{name:<28} {1e3 * taken[name] / tweets:12.3f} {100 * taken[name] / whole:18.1f} %")
    print(f"{'evaluate':<28} {1e3 * taken['evaluate'] / evaluated:12.3f}   ({evaluated} held-out tweets)")
    print(
        f"once a run: {taken['prepare']:.2f} s to prepare it, {taken['save the weights']:.2f} s to save the weights\n"
    )


def tell_prediction(world: World, repeats: int) -> None:
    """The time that a run takes to predict, against that of its forward pass at the matrix rate."""
    trainer, weights = world.trainer(packed=True), weights_beside_embeddings(world)
    tokens = token_table(world.data.token_folder, "labelled", world.run.member)
    tokens = tokens.select(longest_first(tokens))
    pieces, shares, rates = column(tokens, "length").to_numpy().sum(), [], []
    for _ in range(repeats):
        before = matrix_rate(world)
        started = time.perf_counter()
        predict_proba(trainer, tokens)
        seconds = time.perf_counter() - started
        shares.append(seconds / (2 * weights * pieces / ((before + matrix_rate(world)) / 2)))
        rates.append(len(tokens) / seconds)
    print(f"prediction: {statistics.median(rates):.0f} tweets/s, tokens read, probabilities in order;")
    print(f"{statistics.median(shares):.2f} x the time of 2 x weights x word pieces at the matrix rate\n")


def tell_start(world: World) -> None:
    """From the command to the first step, and from one run's last word to the next one's first step, in a fresh job."""
    with tempfile.TemporaryDirectory() as name:
        settings = world.job.settings
        words = ["recipes/smm4h2020.yaml", "--task", settings.task, "--data_dir", settings.data_dir]
        words += ["--model_name_or_path", world.run.member.args.model_name_or_path, "--members", "last2-pooler-42"]
        words += ["--max_train_samples", 200, "--max_predict_samples", 50, "--output_dir", name]
        words += ["--keep_models", "none", "--num_train_epochs", 1]
        started = time.time()
        subprocess.run(
            [sys.executable, "run_classification.py", *map(str, words)], cwd=ROOT, check=True, stdout=subprocess.DEVNULL
        )
        runs = []
        for run in Path(name).glob("*/fold-[0-9]"):
            history = [json.loads(line) for line in (run / "attempts.jsonl").read_text().splitlines()]
            runs.append({event["event"]: moment(event["time"]) for event in history})
            runs[-1]["first step"] = runs[-1]["begun"] + json.loads((run / "DONE").read_text())["preparation_seconds"]
    runs.sort(key=lambda run: run["begun"])
    between = [after["first step"] - before["done"] for before, after in itertools.pairwise(runs)]
    print(f"from the command to the first training step: {runs[0]['first step'] - started:.1f} s")
    print(
        f"from a run's end to the next one's first step: {statistics.median(between):.2f} s (median of {len(between)})"
    )


def moment(text: str) -> float:
    """Seconds since the epoch."""
    return datetime.fromisoformat(text).timestamp()


if __name__ == "__main__":
    main()
