"""Recipes against each other, one stock fine-tuning and TF-IDF, on the same tweets: out of fold, on test, paired.

python benchmarks/quality.py --task tasks/task5.yaml --data_dir DIR --model_name_or_path ENCODER --tweets 3000 \\
    --output_dir runs/quality

DIR holds the task's official files and the gold labels of its test file. All its tweets are drawn anew, by `--seed`:
`--tweets` labelled ones, `--test_tweets` others; `--share` thins the rare labels out to that share of both. Flags
behind `--` are given to all recipes. The same command again goes on; finished recipes are only scored.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from promises import tweets_parser
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PrinterCallback, Trainer, TrainingArguments

from smm4h.config.arguments import BASELINE_CLEANING
from smm4h.config.plans.plan import read_plan
from smm4h.config.task import Task
from smm4h.config.task_file import read_task
from smm4h.data.dataset import column, read_tweets
from smm4h.data.folds import stratified_choice
from smm4h.data.outputs.label_files import read_labels, write_labels
from smm4h.data.readers.tables import wrap_quotes
from smm4h.metrics import format_interval, paired_bootstrap
from smm4h.models.batching import PaddingCollator
from smm4h.training.words.fitting import CLASSIFIERS
from smm4h.utils.console import console, silence_libraries

ROOT = Path(__file__).parents[1]


@dataclasses.dataclass
class Result:
    """How one contender did."""

    name: str
    choices: np.ndarray  # (n_test_tweets,) class indices
    out_of_fold: dict | None
    shown: int | None  # tweets that its encoders were trained on, counted each time


def main() -> None:
    arguments = read_arguments()
    silence_libraries()
    task = read_task(arguments.task)
    gold = draw(arguments, task)
    tfidf = [tfidf_recipe(name, arguments.output_dir) for name in CLASSIFIERS]
    results = [run_recipe(recipe, arguments, task) for recipe in (*arguments.recipes, *tfidf)]
    if not arguments.no_stock:
        results.append(stock(arguments, task))
    show(results, gold, task, arguments)


def read_arguments() -> argparse.Namespace:
    parser = jobs_parser(__doc__, tweets=3000, test_tweets=4000)
    add = parser.add_argument
    add("--seed", type=int, default=1)
    recipes = ["recipes/rare.yaml", "recipes/smm4h2020.yaml"]
    add("--recipes", nargs="*", default=recipes, help="the first is compared; none: TF-IDF alone")
    add("--no_stock", action="store_true", help="leave the stock fine-tuning out: its fp32 takes longest")
    return parser.parse_args()


def jobs_parser(description: str, tweets: int, test_tweets: int) -> argparse.ArgumentParser:
    """Return a parser with the flags of `draw` and of jobs that are trained on what is drawn."""
    parser = tweets_parser(description, tweets, test_tweets)
    parser.add_argument("--model_name_or_path", required=True)
    parser.add_argument("flags", nargs="*", help="behind --: flags for all jobs")
    return parser


def draw(arguments: argparse.Namespace, task: Task, pool_tweets: int = 0) -> np.ndarray:
    """Write train.tsv and test.tsv, and return the test tweets' class indices.

    Args:
        pool_tweets: of the remaining tweets, at most so many are written to pool.tsv, without labels.
    """
    paths = {part: arguments.data_dir / files[0].name for part, files in task.files.items()}
    labelled, _ = read_tweets([paths["training"], paths["validation"]], task, labelled=True)
    test, _ = read_tweets([paths["test"]], task, labelled=False)
    pool = concatenate_datasets([labelled.remove_columns("label"), test])
    labels = np.concatenate([column(labelled, "label").to_numpy(), read_labels(paths["gold"]).indices(task.labels)])
    kept = np.arange(len(labels))
    rng = np.random.default_rng(arguments.seed)
    if arguments.share:
        is_rare = np.isin(labels, task.positive_indices)
        n_rare = round((~is_rare).sum() * arguments.share / (1 - arguments.share))
        rare = np.flatnonzero(is_rare)
        kept = np.sort(np.concatenate([np.flatnonzero(~is_rare), rng.permutation(rare)[:n_rare]]))
    chosen = kept[stratified_choice(labels[kept], arguments.tweets, arguments.seed)]
    others = np.setdiff1d(kept, chosen)
    rest = others[stratified_choice(labels[others], arguments.test_tweets, arguments.seed)]
    others = np.sort(rng.permutation(np.setdiff1d(others, rest))[:pool_tweets])
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    for name, rows in {"train": chosen, "test": rest, **({"pool": others} if pool_tweets else {})}.items():
        write_tweets(arguments.output_dir / f"{name}.tsv", pool, rows, labels if name == "train" else None, task)
    return labels[rest]


def write_tweets(path: Path, pool: Dataset, rows: np.ndarray, labels: np.ndarray | None, task: Task) -> None:
    columns = [column(pool, name).to_pylist() for name in ("id", "user", "text")]
    names = [(task.columns.id or ["id"])[0], (task.columns.user or ["user"])[0], task.columns.text[0]]
    lines = ["\t".join([*names, *([task.columns.label[0]] if labels is not None else [])])]
    for row in rows.tolist():
        tweet_id, user, text = (values[row] for values in columns)
        label = [task.labels[labels[row]]] if labels is not None else []
        lines.append("\t".join([tweet_id, user, wrap_quotes(" ".join(text.split())), *label]))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def run_recipe(recipe: str, arguments: argparse.Namespace, task: Task) -> Result:
    """Trains a recipe by the front door, or finds it trained."""
    folder, started = arguments.output_dir / Path(recipe).stem, time.monotonic()
    words = ["--task", arguments.task, "--model_name_or_path", arguments.model_name_or_path, *arguments.flags]
    train_job(recipe, folder, arguments.output_dir, words)
    console.print(f"{recipe}: {time.monotonic() - started:.0f} s")
    plan, _ = read_plan(folder)
    shown = sum(run.measures().get("steps", 0) * run.member.args.per_device_train_batch_size for run in plan.runs)
    score = json.loads(plan.ensemble_file.read_text())["out_of_fold"]
    return Result(Path(recipe).stem, read_labels(folder / "votes" / "final.tsv").indices(task.labels), score, shown)


def train_job(recipe: str, folder: Path, tweets: Path, flags: Sequence[object]) -> None:
    """Train a recipe by the front door on the files train.tsv and test.tsv of a folder; what is done stays.

    Raises `SystemExit` where it fails; a file `log` beside the tweets says how far it came.
    """
    words = [sys.executable, ROOT / "run_classification.py", recipe, "--output_dir", folder]
    words += ["--train_file", tweets / "train.tsv", "--test_file", tweets / "test.tsv"]
    words += ["--keep_models", "none", "--baselines", "none", *flags]
    with (tweets / "log").open("a") as log:
        done = subprocess.run([str(word) for word in words], stdout=log, stderr=subprocess.STDOUT)
    if done.returncode:
        raise SystemExit(f"{recipe} ended with {done.returncode}; {tweets / 'log'} says how far it came")


def tfidf_recipe(classifier: str, folder: Path) -> str:
    """A recipe of one member that counts words, with a tuned decision."""
    path = folder / f"{classifier}.yaml"
    cleaning = ", ".join(BASELINE_CLEANING)
    member = f"{{classifier: {classifier}, cleaning: [{cleaning}]}}"
    path.write_text(f"shared: {{decision: tuned}}\nmembers:\n  {classifier}: {member}\n")
    return str(path)


def stock(arguments: argparse.Namespace, task: Task) -> Result:
    """One fine-tuning with Trainer's defaults (5e-5, AdamW, 3 epochs, 8 tweets a step) on all labelled tweets."""
    path = arguments.output_dir / "stock.tsv"
    labelled, _ = read_tweets([arguments.output_dir / "train.tsv"], task, labelled=True)
    if not path.exists():
        tokenizer = AutoTokenizer.from_pretrained(arguments.model_name_or_path)
        model = AutoModelForSequenceClassification.from_pretrained(
            arguments.model_name_or_path, num_labels=task.n_classes
        )
        test, _ = read_tweets([arguments.output_dir / "test.tsv"], task, labelled=False)

        def rows(tweets: Dataset) -> Dataset:
            ids = tokenizer(column(tweets, "text").to_pylist(), truncation=True, max_length=128)["input_ids"]
            labels = column(tweets, "label").to_pylist() if "label" in tweets.column_names else [0] * len(ids)
            return Dataset.from_dict({"input_ids": ids, "labels": labels})

        settings = TrainingArguments(
            output_dir=str(arguments.output_dir / "stock"),
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            per_device_eval_batch_size=64,
            dataloader_pin_memory=torch.cuda.is_available(),
        )
        trainer = Trainer(
            model, settings, train_dataset=rows(labelled), data_collator=PaddingCollator(tokenizer.pad_token_id)
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        found = trainer.predict(rows(test)).predictions.argmax(axis=1)
        write_labels(path, column(test, "id"), [task.labels[choice] for choice in found])
    return Result("stock fine-tuning", read_labels(path).indices(task.labels), None, 3 * len(labelled))


def show(results: list[Result], gold: np.ndarray, task: Task, arguments: argparse.Namespace) -> None:
    """A row a contender, as Markdown."""
    first = results[0]
    counts = ", ".join(f"{label}: {(gold == index).sum()}" for index, label in enumerate(task.labels))
    console.print(f"\n{task.name}, {arguments.tweets} labelled tweets, test {counts}\n")
    console.print(f"| | out of fold {task.measure} | test {task.measure} | {first.name} is better by | tweets shown |")
    console.print("|---|---|---|---|---|")
    for result in results:
        score = task.score(gold, result.choices)
        cells = [f"{score[task.measure]:.3f} ({format_interval(score['interval'])})", ""]
        if result is not first:
            measure, positive = task.objective.measure, task.objective.positive
            paired = paired_bootstrap(gold, first.choices, result.choices, task.n_classes, measure, positive)
            cells[1] = f"{paired['difference']:+.3f} ({format_interval(paired['interval'])})"
        own = result.out_of_fold
        own = f"{own[task.measure]:.3f} ({format_interval(own['interval'])})" if own else "-"
        shown = f"{result.shown / 1000:.0f},000" if result.shown else "-"
        console.print(f"| {result.name} | {own} | {' | '.join(cells)} | {shown} |", markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
