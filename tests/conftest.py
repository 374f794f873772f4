"""What all tests share: a tiny random encoder, finished jobs on invented tweets, and the real commands."""

import gc
import io
import json
import os
import pickle
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub reads it: no test waits for a network
# Before torch reads them: tests run side by side, and each thread that waits for another one would spin on a core.
# Commands in processes of their own take all cores, whatever the first of the two says.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"

import psutil
import pytest
import torch
from fake_hub import FakeHub
from filelock import FileLock
from transformers import BertConfig, BertModel, BertTokenizerFast

from smm4h.utils.console import console
from smm4h.utils.leases import LeaseHolder
from smm4h.utils.temporaries import private_folder

ROOT = Path(__file__).parents[1]
INVENTED = ROOT / "tests" / "invented"  # tweets in task 5's official shape, which no change of the quickstart changes
RECIPE = ROOT / "tests" / "recipe.yaml"
TASK5 = ROOT / "tasks" / "task5.yaml"
SLOW_FIXTURES = {"finished_job", "tuned_job", "either_job", "published_job"}  # each trains runs in processes of its own


# Files that take a minute or more come first, so that no test process is left alone with one of them at the end. The
# first needs the finished job at once, and the second, in another process meanwhile, does not.
LONG_FILES = (
    "test_faults",
    "test_joint_training",
    "test_worker_pool",
    "test_benchmarks",
    "test_distill",
    "test_adaptation",
    "test_hub",
    "test_predictor",
    "test_train",
    "test_adapters",
    "test_docs",
    "test_verification",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow all tests that need a job which took processes of its own; put long files first."""
    for item in items:
        if SLOW_FIXTURES.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)
    places = {name: place for place, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: places.get(item.path.stem, len(LONG_FILES)))


def pytest_collection_finish() -> None:
    """Leave what all tests import out of garbage collections: each trained run has three, of millions of objects."""
    gc.collect()
    gc.freeze()


# What a launcher sets for the second process of two on the second of two machines.
LAUNCHER_VARIABLES = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "x",
    "ROLE_RANK": "3",
    "TORCHELASTIC_RUN_ID": "a",
    "ACCELERATE_MIXED_PRECISION": "no",
    "GROUP_RANK": "1",
    "FSDP_VERSION": "2",
}


# Commands


@dataclass
class CommandResult:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str


@pytest.fixture
def call(monkeypatch, capsys) -> Callable[..., CommandResult]:
    """Call a command's main in this process, with its words on the command line, as the shell would."""

    def run(main, *words) -> CommandResult:
        code = exit_code(main, words, monkeypatch)
        captured = capsys.readouterr()
        return CommandResult(code, captured.out, captured.err)

    return run


def run_here(main: Callable[[], None], *words) -> CommandResult:
    """Call a command's main as the fixture `call` does, for fixtures that live longer than a test.

    A process of its own would import for seconds what is here already, and a job's workers would wait for a fork server
    of their own.
    """
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2)]
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(streams[0]), redirect_stderr(streams[1]):
        code = exit_code(main, words, patch)
    for stream in streams:
        stream.seek(0)  # which flushes
    return CommandResult(code, *(stream.read() for stream in streams))


def exit_code(main: Callable[[], None], words: Sequence, patch: pytest.MonkeyPatch) -> int:
    """Return with what code a command's main ends that has these words on its command line."""
    from smm4h.utils.errors import run_main

    # One core for its threads: tests run side by side, and waiting threads would spin.
    patch.setattr(os, "sched_getaffinity", lambda process: {0}, raising=False)
    patch.setattr(sys, "argv", ["script", *map(str, words)])
    patch.setattr(console, "file", None, raising=False)
    try:
        run_main(main)
    except SystemExit as stop:
        return stop.code or 0
    return 0


def shell(*words, timeout: float = 600, cwd: Path = ROOT, env: dict | None = None) -> CommandResult:
    """Run a command in a process of its own."""
    environment = {**os.environ, **(env or {})}
    done = subprocess.run(
        [str(word) for word in words], cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout
    )
    return CommandResult(done.returncode, done.stdout, done.stderr)


def python(script: str, *words, **options) -> CommandResult:
    """Run one of the repository's scripts in a process of its own."""
    return shell(sys.executable, script, *words, **options)


def train_words(words: Sequence[str]) -> list[str]:
    """Return the command that trains a job without a launcher."""
    return [sys.executable, "run_classification.py", *words]


def train(words: Sequence[str], **options) -> CommandResult:
    """Train a job in a process of its own."""
    return shell(*train_words(words), **options)


def train_here(words: Sequence) -> CommandResult:
    """Train a job by this process and workers that it forks."""
    from smm4h.cli.train import main

    return run_here(main, *words)


def launch_words(n_processes: int, words: Sequence[str], config: Path = ROOT / "accelerate_config.yaml") -> list:
    """Return the documented command: accelerate launch."""
    launcher = (sys.executable, "-m", "accelerate.commands.launch", "--config_file", config)
    return [*launcher, "--num_processes", n_processes, "run_classification.py", *words]


def launch(n_processes: int, words: Sequence[str]) -> CommandResult:
    """Train a job by several launched processes."""
    return shell(*launch_words(n_processes, words))


def start(words: Sequence, log: Path | None = None) -> psutil.Popen:
    """Start a command in a session of its own, so that all its processes can be found."""
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
        preexec_fn=restore_sigint,
    )


def restore_sigint() -> None:
    """A shell's `&` has its command ignore SIGINT, and whatever that command starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def session_of(job: psutil.Popen) -> list[psutil.Process]:
    """Return all living processes of a command that `start` started."""
    members = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == job.pid and process.status() != psutil.STATUS_ZOMBIE:
                members.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return members


def wait_for(condition: Callable[[], object], seconds: float) -> bool:
    """Return whether the condition came true in time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if condition():
            return True
        time.sleep(0.003)
    return False


# Jobs


@pytest.fixture(scope="session")
def make_shared(tmp_path_factory) -> Callable[[str, Callable[[Path], Any]], Any]:
    """Return what `make(folder)` returns, made once by the first of the test processes that run side by side.

    Each of them would else train the same jobs again, minutes of the whole suite.
    """
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    shared.mkdir(exist_ok=True)

    def made(name: str, make: Callable[[Path], Any]) -> Any:
        result = shared / f"{name}.pickle"
        with FileLock(shared / f"{name}.lock"):
            if not result.exists():
                folder = shared / name
                shutil.rmtree(folder, ignore_errors=True)  # of a process whose attempt failed
                folder.mkdir()
                result.write_bytes(pickle.dumps(make(folder)))
        return pickle.loads(result.read_bytes())

    return made


def save_tiny_encoder(folder: Path, dropout: float = 0.1) -> Path:
    """Save a random BERT of 3 layers, 16 wide, with a word-piece vocabulary of letters and a few words."""
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
def tiny_encoder(make_shared) -> Path:
    return make_shared("encoder", lambda folder: save_tiny_encoder(folder / "tiny"))


@pytest.fixture(scope="session")
def still_encoder(tmp_path_factory) -> Path:
    """An encoder without dropout, for comparisons up to float noise."""
    return save_tiny_encoder(tmp_path_factory.mktemp("still") / "tiny", dropout=0.0)


# A thinned job on the invented tweets. One thread, so that any number of workers gives the same bytes.
JOB_FLAGS = {
    "task": TASK5,
    "data_dir": INVENTED,
    "max_train_samples": 60,
    "max_predict_samples": 40,
    "num_train_epochs": 1,
    "max_seq_length": 24,
    "bf16": False,
    "bigru_hidden_size": 8,
    "threads_per_worker": 1,
    "use_cpu": True,
    "retrain_collapsed": False,
}


def job_words(
    encoder: Path | str,
    output_dir: Path,
    *more,
    recipe: Path | str = RECIPE,
    baselines: str | Sequence[str] = "none",
    **flags: Any,
) -> list[str]:
    """Return the main command's words on a thinned job.

    Args:
        more: words that follow.
        flags: by name; each replaces the default one. A list becomes several words.
    """
    named = {"output_dir": output_dir, "model_name_or_path": encoder, "baselines": baselines}
    words = [recipe]
    for name, value in {**JOB_FLAGS, **named, **flags}.items():
        words += [f"--{name}", *(value if isinstance(value, list | tuple) else [value])]
    return [*(str(word).lower() if isinstance(word, bool) else str(word) for word in words), *map(str, more)]


def recipe_of(folder: Path, **rows: str) -> Path:
    """Write a recipe with the settings of the tests' own one and other members."""
    shared = RECIPE.read_text().split("members:")[0].replace("  pseudo_teachers", "  # pseudo_teachers")
    path = folder / "recipe.yaml"
    path.write_text(shared + "members:\n" + "".join(f"  {name}: {row}\n" for name, row in rows.items()))
    return path


@dataclass
class ExampleJob:
    """A job that was trained by its command."""

    folder: Path
    words: list[str]  # of its command, without the launcher's
    result: CommandResult


@pytest.fixture(scope="session")
def finished_job(tiny_encoder, make_shared) -> ExampleJob:
    """All 45 runs by two processes, votes and submission; made once for all tests that only read it."""

    def make(folder: Path) -> ExampleJob:
        words = job_words(tiny_encoder, folder / "task5")
        return ExampleJob(folder / "task5", words, launch(2, words))

    return make_shared("job", make)


@pytest.fixture
def copied_job(finished_job, tmp_path) -> ExampleJob:
    """The finished job in a folder that may be changed."""
    folder = tmp_path / "task5"
    shutil.copytree(finished_job.folder, folder)
    return ExampleJob(folder, [*finished_job.words, "--output_dir", str(folder)], finished_job.result)


MEMBERS = {
    "counts": "{classifier: tfidf-logistic, refit: true}",
    "svm": "{classifier: tfidf-svm, fold_seed: 24}",
    "encoder": "{head: mean, checkpoint: last, refit: true}",
}


@pytest.fixture(scope="session")
def tuned_job(tiny_encoder, make_shared) -> ExampleJob:
    """Two TF-IDF members and one with an encoder, whose vote and decision are fitted; and a baseline.

    Two of them are refitted to all labelled tweets.
    """

    def make(folder: Path) -> ExampleJob:
        words = job_words(
            tiny_encoder,
            folder / "out",
            recipe=recipe_of(folder, **MEMBERS),
            baselines="textcnn",
            max_train_samples=300,
            vote="greedy",
            decision="tuned",
        )
        result = train_here(words)
        assert result.code == 0, result.err
        return ExampleJob(folder / "out", words, result)

    return make_shared("tuned", make)


@pytest.fixture(scope="session", params=["finished_job", "tuned_job"])
def either_job(request) -> ExampleJob:
    return request.getfixturevalue(request.param)


@dataclass
class PublishedJob:
    """A finished job's folder, and the one that it was published to."""

    job: Path
    folder: Path


@pytest.fixture(scope="session")
def published_job(either_job, make_shared) -> PublishedJob:
    from smm4h.cli import publish

    def make(folder: Path) -> PublishedJob:
        result = run_here(publish.main, either_job.folder, "--to_folder", folder / "ensemble")
        assert result.code == 0, result.err
        return PublishedJob(either_job.folder, folder / "ensemble")

    return make_shared(f"published-{either_job.folder.parent.name}", make)


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    server = FakeHub()
    yield server
    server.close()


@pytest.fixture(scope="session")
def new_tweets(tmp_path_factory) -> Path:
    """The 40 tweets that the finished jobs predicted."""
    path = tmp_path_factory.mktemp("new") / "new.tsv"
    lines = (INVENTED / "task5_test_participant.tsv").read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:41]))
    return path


@dataclass
class PreparedJob:
    """A job's runs, ready to be trained in this process."""

    runs: list
    data: Any

    def trainer(self, n_tweets: int):
        """Return the first run's trainer, on its first training tweets."""
        from smm4h.training.building.run_trainer import make_trainer
        from smm4h.training.run_data import training_part

        dataset = training_part(self.runs[0], self.data, None).select(range(n_tweets))
        own = self.runs[0].directory / "own"
        return make_trainer(self.runs[0], self.data, own, dataset, lambda step, steps: None, lambda: False)


@pytest.fixture
def prepare_job(tiny_encoder, tmp_path) -> Callable[..., PreparedJob]:
    """Prepare the runs of the thinned job with some flags, in a folder of a name."""
    from smm4h.config.plans.plan import make_plan
    from smm4h.config.recipe import read_command_line
    from smm4h.data.folds import write_folds
    from smm4h.data.splits import load_splits
    from smm4h.training.run_data import prepare_run_data

    def prepare(name: str = "out", encoder: Path = tiny_encoder, **flags: Any) -> PreparedJob:
        job = read_command_line(job_words(encoder, tmp_path / name, **flags))
        splits = load_splits(job)
        plan = make_plan(job, *splits.hashes())
        write_folds(splits.labelled, plan.folds_file)
        return PreparedJob(plan.runs, prepare_run_data(plan, job, splits))

    return prepare


def history(run_folder: Path) -> list[dict]:
    """Return the events of a run."""
    return [json.loads(line) for line in (run_folder / "attempts.jsonl").read_text().splitlines()]


def all_files(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file that is part of a result, by name."""
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


def accept_changed_files(run_folder: Path) -> None:
    """Make a run's DONE one of earlier versions, which had no hashes, so that a file changed by hand is used."""
    done = json.loads((run_folder / "DONE").read_text())
    (run_folder / "DONE").write_text(json.dumps({k: v for k, v in done.items() if k not in ("files", "checksum")}))


def leave_lease_of_another_host(path: Path) -> None:
    """Write what a lease of filelock looks like that a host acquired before its power failed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with LeaseHolder().try_acquire(path):
        text = path.read_text()
    path.write_text(text.replace(platform.node(), "node7"))


def leave_temporaries(place: Path) -> list[Path]:
    """Leave what a process leaves that is killed while it writes a file and a folder; return the two."""
    with private_folder(place) as folder:
        birth, number = folder.name.split("-")[3:]
        dead = place / folder.name.replace(f"-{birth}-{number}", f"-{int(birth) + 1}-{number}")
    (dead / "tokens").mkdir(parents=True)
    (dead / "tweets.tsv").write_text("1\tI took my pills\n")
    file = dead.with_name(f"{dead.name}.json")
    file.write_text("{")
    return [dead, file]


def leave_empty_lease(path: Path) -> None:
    """Write what a process leaves that is killed between creating its lease and writing its name there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


# Statistics


def standard_errors(count: float, spread: float, n_values: int) -> float:
    """Return `count` standard errors of a mean of independent values; chance exceeds 5 of them once in 2 million tests.

    Args:
        spread: standard deviation of one value.
    """
    return count * spread / n_values**0.5
