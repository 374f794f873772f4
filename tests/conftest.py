"""The tests' world: a tiny random encoder, invented tweets, and the real commands run on them."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub reads it: no test waits for a network
os.environ["OMP_NUM_THREADS"] = "1"  # before torch reads it: tests run side by side, and waiting threads would spin

import psutil
import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizerFast

from smm4h.utils.console import console

ROOT = Path(__file__).parents[1]
QUICKSTART = ROOT / "quickstart" / "data"
RECIPE = ROOT / "recipes" / "quickstart.yaml"
TASK5 = ROOT / "tasks" / "task5.yaml"


@dataclass
class CommandResult:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str


@pytest.fixture
def call(monkeypatch, capsys) -> Callable[..., CommandResult]:
    """Calls a script's main in this process, with its words on the command line, as the shell would."""
    from smm4h.utils.errors import run_main

    def run(main, *words) -> CommandResult:
        monkeypatch.setattr(sys, "argv", ["script", *map(str, words)])
        monkeypatch.setattr(console, "file", None, raising=False)
        code = 0
        try:
            run_main(main)
        except SystemExit as stop:
            code = stop.code or 0
        captured = capsys.readouterr()
        return CommandResult(code, captured.out, captured.err)

    return run


def shell(*words, timeout: float = 600, cwd: Path = ROOT, env: dict | None = None) -> CommandResult:
    """Runs a command in a process of its own."""
    environment = {**os.environ, **(env or {})}
    done = subprocess.run(
        [str(word) for word in words], cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout
    )
    return CommandResult(done.returncode, done.stdout, done.stderr)


def start(words: Sequence, log: Path | None = None) -> psutil.Popen:
    """Starts a command in a session of its own, so that all its processes can be found."""
    out = log.open("a") if log else subprocess.DEVNULL
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    command = [str(word) for word in words]
    return psutil.Popen(
        command,
        cwd=ROOT,
        stdout=out,
        stderr=out,
        start_new_session=True,
        env=environment,
        preexec_fn=hear_interrupts,
    )


def hear_interrupts() -> None:
    """A shell's `&` has its command ignore SIGINT, and whatever that command starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def session_of(job: psutil.Popen) -> list[psutil.Process]:
    """All living processes that came of a command given by `start`."""
    members = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == job.pid and process.status() != psutil.STATUS_ZOMBIE:
                members.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return members


def wait_for(condition: Callable[[], object], seconds: float) -> bool:
    """Whether the condition came true in time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if condition():
            return True
        time.sleep(0.003)
    return False


def save_tiny_encoder(folder: Path, dropout: float = 0.1) -> Path:
    """A random BERT of 3 layers, 16 wide, with a word-piece vocabulary of letters and a few words."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = [chr(c) for c in range(33, 127)]
    words = ["my", "son", "daughter", "was", "born", "with", "the", "a", "and", "is", "of", "has", "baby", "surgery"]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters), *words]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=128)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=128,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory) -> Path:
    return save_tiny_encoder(tmp_path_factory.mktemp("encoder") / "tiny")


def job_words(encoder: Path, output_dir: Path, *more) -> list[str]:
    """The main job's command line on a thinned quickstart; one thread, so that any number of workers gives the same."""
    line = f"""{RECIPE} --task {TASK5} --data_dir {QUICKSTART} --output_dir {output_dir} --model_name_or_path {encoder}
        --max_train_samples 60 --max_predict_samples 40 --num_train_epochs 1 --max_seq_length 24 --bf16 false
        --bigru_hidden_size 8 --threads_per_worker 1 --use_cpu --no_retrain_collapsed --baselines none"""
    return [*shlex.split(line), *map(str, more)]


def recipe_of(tmp_path: Path, **rows: str) -> str:
    """The quickstart's settings with other members."""
    shared = RECIPE.read_text().split("members:")[0].replace("  pseudo_teachers", "  # pseudo_teachers")
    path = tmp_path / "recipe.yaml"
    path.write_text(shared + "members:\n" + "".join(f"  {name}: {row}\n" for name, row in rows.items()))
    return str(path)


def history(run_folder: Path) -> list[dict]:
    """What has happened to a run."""
    return [json.loads(line) for line in (run_folder / "attempts.jsonl").read_text().splitlines()]


def launch_words(n_processes: int, words: Sequence[str], config: Path = ROOT / "accelerate_config.yaml") -> list:
    """The documented way in: accelerate launch."""
    launcher = (sys.executable, "-m", "accelerate.commands.launch", "--config_file", config)
    return [*launcher, "--num_processes", n_processes, "run_classification.py", *words]


def launch(n_processes: int, words: Sequence[str]) -> CommandResult:
    return shell(*launch_words(n_processes, words))


def all_files(folder: Path) -> dict[str, bytes]:
    """Bytes of every file that a result consists of, by name."""
    kinds = (
        "*.parquet",
        "*.tsv",
        "*.zip",
        "*.safetensors",
        "metrics.json",
        "scores.json",
        "ensemble.json",
        "appraisal.json",
    )
    return {str(p.relative_to(folder)): p.read_bytes() for kind in kinds for p in sorted(folder.rglob(kind))}


@dataclass
class ExampleJob:
    folder: Path
    words: list[str]
    outcome: CommandResult


@pytest.fixture(scope="session")
def finished_job(tiny_encoder, tmp_path_factory) -> ExampleJob:
    """All 45 runs by two processes, votes and submission; made once for all tests that only read it."""
    folder = tmp_path_factory.mktemp("job") / "task5"
    words = job_words(tiny_encoder, folder)
    return ExampleJob(folder, words, launch(2, words))


MEMBERS = {
    "counts": "{classifier: tfidf-logistic, refit: true}",
    "svm": "{classifier: tfidf-svm, fold_seed: 24}",
    "encoder": "{head: mean, checkpoint: last, refit: true}",
}


@pytest.fixture(scope="session")
def tuned_job(tiny_encoder, tmp_path_factory) -> ExampleJob:
    """Two members that count words and one with an encoder, whose vote and decision are fitted; and a baseline.

    Two of them are refitted to all labelled tweets.
    """
    folder = tmp_path_factory.mktemp("tuned")
    words = job_words(tiny_encoder, folder / "out", "--vote", "greedy", "--decision", "tuned")
    words[0] = recipe_of(folder, **MEMBERS)
    words[words.index("none")] = "textcnn"
    words[words.index("--max_train_samples") + 1] = "300"
    outcome = shell(sys.executable, "run_classification.py", *words)
    assert outcome.code == 0, outcome.err
    return ExampleJob(folder / "out", words, outcome)
