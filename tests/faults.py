"""The fault campaign: jobs of 45 tiny runs are killed in all ways, at all times, and must end as if undisturbed.

python tests/faults.py --kills 100 --seed 1

Each kill hits a worker, the server that forks them, a job's own process, the launcher, or everything, with SIGKILL or
SIGTERM, while a run is trained, saved or predicted, or while members vote. The same command is given again until the
job is finished. Then every file of the result has the bytes of the undisturbed job's, every run was trained to its end
once, and no intermediate file is left.
"""

import argparse
import os
import random
import shutil
import signal
import tempfile
from collections import Counter
from pathlib import Path

import psutil
from conftest import (
    all_files,
    job_words,
    launch,
    launch_words,
    save_tiny_encoder,
    session_of,
    start,
    train_words,
    wait_for,
)

from smm4h.config.plan import read_plan
from smm4h.parallel.run_state import events

SAVING = {"save_strategy": "steps", "save_steps": 1}
WAIT = 240.0  # seconds until a job that does nothing is called stuck


def campaign(folder: Path, encoder: Path, undisturbed: Path, n_kills: int, seed: int) -> Counter:
    """Kill `n_kills` times; return what was hit when. Raises AssertionError where a job does not end as it should."""
    rng, hits, number = random.Random(seed), Counter(), 0
    while hits.total() < n_kills:
        number += 1
        output = folder / f"job-{number}"
        starts = finish_with_kills(output, encoder, rng, hits, n_kills)
        check(output, undisturbed)
        print(f"job {number}: as if undisturbed, after {hits.total()} kills and {starts} starts", flush=True)
        shutil.rmtree(output)
    hits["jobs"] = number
    return hits


def finish_with_kills(output: Path, encoder: Path, rng: random.Random, hits: Counter, n_kills: int) -> int:
    """Give the command again and again, and kill, until the job is finished; return how often it was given."""
    starts = 0
    while True:
        starts += 1
        job = start(command(output, encoder, rng), output.with_suffix(".log"))
        try:
            while hits.total() < n_kills and job.poll() is None:
                phase = rng.choice(sorted(PHASES))
                if not reaches(job, output, phase, rng.uniform(1, 15)):
                    phase = "any time"
                if job.poll() is None and strike(job, rng, hits, phase) in ("launcher", "all", "job"):
                    break
            if end(job) == 0:
                return starts
        finally:
            end(job, force=True)


def command(output: Path, encoder: Path, rng: random.Random) -> list:
    """Return the job's command, by the launcher with two processes or by python with two workers."""
    words = job_words(encoder, output, **SAVING)
    alone = train_words([*words, "--runs_per_device", "2"])
    return rng.choice([launch_words(2, words), alone])


def strike(job: psutil.Popen, rng: random.Random, hits: Counter, phase: str) -> str | None:
    """Kill one part of the job, or all of it; return what was hit."""
    parts = parts_of(job)
    target = rng.choice(sorted([*parts, "worker", "worker", "worker"] if "worker" in parts else parts))
    number = rng.choice([signal.SIGKILL, signal.SIGTERM])
    victims = list(parts.values()) if target == "all" else [rng.choice(parts[target])]
    if target == "all":
        os.killpg(job.pid, number)
    else:
        try:
            victims[0].send_signal(number)
        except psutil.NoSuchProcess:
            return None
    hits[f"{target}, {number.name}, {phase}"] += 1
    return target


def parts_of(job: psutil.Popen) -> dict[str, list[psutil.Process]]:
    """Return the job's processes by their kind; `all` is every one of them."""
    parts: dict[str, list[psutil.Process]] = {"all": []}
    try:
        family = [job, *job.children(recursive=True)]
    except psutil.NoSuchProcess:
        return parts
    for process in family:
        try:
            line, parent = " ".join(process.cmdline()), process.parent()
            if "resource_tracker" in line or not line:
                continue
            if "forkserver" in line:
                kind = "worker" if parent and "forkserver" in " ".join(parent.cmdline()) else "server"
            elif "accelerate" in line.split("run_classification.py")[0]:
                kind = "launcher"
            else:
                kind = "job"
        except psutil.NoSuchProcess:
            continue
        parts.setdefault(kind, []).append(process)
    return parts


def reaches(job: psutil.Popen, output: Path, phase: str, seconds: float) -> bool:
    """Wait until files younger than the job show that it is in `phase`; return whether it is in time."""

    def reached() -> bool:
        return any(younger(path, job.create_time()) for path in output.glob(PHASES[phase]))

    wait_for(lambda: job.poll() is not None or reached(), 20 if phase == "training" else seconds)
    return job.poll() is None and reached()


def younger(path: Path, moment: float) -> bool:
    try:
        return path.stat().st_mtime > moment
    except FileNotFoundError:
        return False


def end(job: psutil.Popen, force: bool = False) -> int | None:
    """Wait for the job's end, and assert that no process of its session outlives it by much."""
    if force:
        for process in session_of(job):
            process.kill()
        return job.wait(10)
    code = job.wait(WAIT)
    assert wait_for(lambda: not session_of(job), 30), f"left alone: {session_of(job)}"
    return code


PHASES = {  # files that exist during the phase
    "training": "*/fold-*/RUNNING",
    "checkpointing": "*/fold-*/checkpoint-*/rng_state.pth",
    "predicting": "*/fold-*/TRAINED",
    "voting": "[vp]*/.*",
    "any time": "nothing",
}


def check(output: Path, undisturbed: Path) -> None:
    """Raise AssertionError where the finished job differs from the undisturbed one."""
    files, expected = all_files(output), all_files(undisturbed)
    assert sorted(files) == sorted(expected)
    assert not [name for name in expected if files[name] != expected[name]]
    for run in read_plan(output)[0].runs:
        history = [event["event"] for event in events(run)]
        for last in ("trained", "done"):  # a kill may come before the event is logged
            assert history.count(last) <= 1, f"{run.name} was trained to its end twice: {history}"
        names = {path.name for path in run.directory.iterdir()}
        assert names == {"DONE", "attempts.jsonl", "held_out.parquet", "metrics.json", "model", "test.parquet"}
    assert not list(output.rglob("*.claim"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        encoder = save_tiny_encoder(folder / "encoder")
        result = launch(2, job_words(encoder, folder / "undisturbed"))
        assert result.code == 0, result.err
        hits = campaign(folder, encoder, folder / "undisturbed", arguments.kills, arguments.seed)
    jobs = hits.pop("jobs")
    for part in range(3):  # target, signal, phase
        tally = Counter()
        for hit, count in hits.items():
            tally[hit.split(", ")[part]] += count
        print(", ".join(f"{name}: {count}" for name, count in tally.most_common()))
    print(f"{hits.total()} kills over {jobs} jobs; every result has the bytes of the undisturbed one")


if __name__ == "__main__":
    main()
