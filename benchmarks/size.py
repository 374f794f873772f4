"""How the parts before and after training bear a million tweets: each in a process of its own, with its peak memory.

python benchmarks/size.py [--tweets 1000000]

Seconds depend on the machine; what is promised is a million tweets read, checked and given folds in under 60 s and
4 GB, nine prediction files of a million rows voted in under 10 s, and a million tweets labelled by predict.py, killed
and resumed on the way, each once and in order, at memory that does not grow.
"""

import argparse
import contextlib
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
SMALLEST_BLOCK = 2_000  # tweets that predict.py answers at once; of a million, its default of 10,000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tweets", type=int, default=1_000_000)
    parser.add_argument("--part", choices=PARTS)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    if arguments.part:
        return PARTS[arguments.part](arguments.folder)
    with tempfile.TemporaryDirectory() as folder:
        invent_files(Path(folder), arguments.tweets)
        train_two_models(Path(folder))
        for part in PARTS:
            command = [sys.executable, __file__, "--part", part, "--folder", folder]
            started = time.perf_counter()
            subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
            seconds = time.perf_counter() - started
            peak = (Path(folder) / f"{part}.peak").read_text()
            print(f"{arguments.tweets:,} tweets  {part:<28} {seconds:6.1f} s  {peak} GB at most")


def invent_files(folder: Path, n_tweets: int) -> None:
    """Labelled tweets in the task-5 shape, and nine votes on as many."""
    rng = random.Random(1)
    words = [f"word{i}" for i in range(5000)]
    with (folder / "task5_training.tsv").open("w", newline="") as file:
        file.write("tweet_id\tuser_id\ttweet\tclass\r\n")
        for row in range(n_tweets):
            text = f"{' '.join(rng.choices(words, k=16))} @user{row} https://t.co/{row}"
            file.write(f"{10**18 + row}\t{rng.randint(1, n_tweets)}\t{text}\t{1 + row % 3}\r\n")
    for voter in range(9):
        labels = rng.choices("123", weights=[5, 6, 89], k=n_tweets)
        lines = "".join(f"{10**18 + row}\t{label}\n" for row, label in enumerate(labels))
        (folder / f"vote-{voter}.tsv").write_text("tweet_id\tClass\n" + lines)


def train_two_models(folder: Path) -> None:
    """Train a job of one member and two folds on the quickstart's tweets, with a tiny random encoder."""
    recipe = folder / "recipe.yaml"
    recipe.write_text("members: {tiny: {head: mean, per_device_train_batch_size: 8}}\n", encoding="utf-8")
    words = [recipe, "--task", "tasks/task5.yaml", "--data_dir", "quickstart/data", "--output_dir", folder / "job"]
    words += ["--model_name_or_path", save_tiny_encoder(folder / "encoder"), "--n_folds", 2, "--num_train_epochs", 1]
    words += ["--max_train_samples", 60, "--max_predict_samples", 40, "--max_seq_length", 24, "--baselines", "none"]
    command = [sys.executable, "run_classification.py", *map(str, words), "--no_retrain_collapsed"]
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)


def save_tiny_encoder(folder: Path) -> Path:
    """Write a random BERT of 2 layers, 16 wide, with the tokenizer of the quickstart's encoder."""
    from transformers import AutoTokenizer, BertConfig, BertModel

    command = [sys.executable, ROOT / "quickstart" / "encoder.py"]
    pretrained = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    tokenizer = AutoTokenizer.from_pretrained(pretrained)
    tokenizer.save_pretrained(folder)
    width = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=128, **width)).save_pretrained(folder)
    return folder


def read_check_and_fold(folder: Path) -> None:
    from smm4h.config.task_file import read_task
    from smm4h.data.dataset import content_hash, read_tweets
    from smm4h.data.duplicates import cross_findings
    from smm4h.data.folds import add_folds, write_folds

    task = read_task(ROOT / "tasks" / "task5.yaml")
    labelled, _ = read_tweets([folder / "task5_training.tsv"], task, labelled=True)
    labelled = add_folds(labelled, 5, [24, 42])
    cross_findings(labelled, None, [24, 42], task)
    content_hash(labelled)
    write_folds(labelled, folder / "folds.parquet")
    write_peak(folder / "read.peak")


def vote_on_label_files(folder: Path) -> None:
    from smm4h.cli import vote

    sys.argv = [
        "ensemble.py",
        *map(str, sorted(folder.glob("vote-*.tsv"))),
        "--output",
        str(folder / "elected.tsv"),
        "--overwrite",
    ]
    vote.main()
    write_peak(folder / "vote.peak")


def vote_on_predictions(folder: Path) -> None:
    import numpy as np

    from smm4h.cli import vote
    from smm4h.data.outputs.label_files import read_labels
    from smm4h.data.outputs.predictions import Predictions, write_predictions

    ids = read_labels(folder / "vote-0.tsv").ids
    for voter in range(9):
        drawn = np.random.default_rng(voter).dirichlet([1, 1, 8], size=len(ids))
        path = folder / f"voter-{voter}.parquet"
        write_predictions(path, Predictions(np.arange(len(ids)), ids, drawn, ["1", "2", "3"], {}))
    started = time.perf_counter()
    files = sorted(map(str, folder.glob("voter-*.parquet")))
    sys.argv = ["ensemble.py", *files, "--method", "hard", "--output", str(folder / "elected.tsv"), "--overwrite"]
    vote.main()
    print(f"voting alone {time.perf_counter() - started:.1f} s", file=sys.stderr)
    write_peak(folder / "vote_probabilities.peak")


def predict_killed_and_resumed(folder: Path) -> None:
    tweets, labels = folder / "task5_training.tsv", folder / "labels.tsv"
    parts = folder / f".{labels.name}.parts"
    ids = [line.split("\t", 1)[0] for line in tweets.read_text().splitlines()[1:]]
    block, memory = max(SMALLEST_BLOCK, len(ids) // 100), {}
    command = [sys.executable, "predict.py", folder / "job", tweets, "--output", labels, "--block", block, "--use_cpu"]
    n_blocks = -(-len(ids) // block)

    def run(blocks: int) -> int | None:
        """Until so many blocks are answered, or to its end; notes the most memory for each fifth of the blocks."""
        process = psutil.Popen([str(word) for word in command], cwd=ROOT, stderr=subprocess.DEVNULL)
        while process.poll() is None and (done := len(list(parts.glob("[0-9]*.parquet")))) < blocks:
            fifth = 5 * done // n_blocks
            with contextlib.suppress(psutil.Error):  # it has just ended
                memory[fifth] = max(memory.get(fifth, 0), process.memory_info().rss)
            time.sleep(0.05)
        if process.poll() is None:
            process.kill()
        return process.wait()

    killed, kept = run(n_blocks // 3), len(list(parts.glob("[0-9]*.parquet")))
    finished = run(n_blocks + 1)
    found = [line.split("\t", 1)[0] for line in labels.read_text().splitlines()[1:]]
    if killed == 0 or finished != 0 or found != ids:
        sys.exit(f"ended with {killed} and {finished}; {len(found)} labels for {len(ids)} tweets")
    fifths = ", ".join(f"{size / 1e9:.2f}" for _, size in sorted(memory.items()))
    print(f"killed after {kept} of {n_blocks} blocks; most GB in each fifth of them: {fifths}", file=sys.stderr)
    write_peak(folder / "predict.peak", resource.RUSAGE_CHILDREN)


def write_peak(path: Path, of: int = resource.RUSAGE_SELF) -> None:
    kilobytes = resource.getrusage(of).ru_maxrss
    path.write_text(f"{kilobytes / 1e6:.1f}")


PARTS = {
    "read": read_check_and_fold,
    "vote": vote_on_label_files,
    "vote_probabilities": vote_on_predictions,
    "predict": predict_killed_and_resumed,
}

if __name__ == "__main__":
    main()
