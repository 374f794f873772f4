"""The fault campaign: tiny jobs are killed and stopped in all ways, at all times, and must end as if undisturbed.

python tests/faults.py --kills 100 --seed 1
python tests/faults.py --stops 100 --seed 1
python tests/faults.py --launches 50 --seed 1

Each kill hits a worker, the server that forks them, a job's own process, the launcher, or everything, with SIGKILL or
SIGTERM, while a run is trained, saved or predicted, or while members vote. The same command is given again until the
job is finished. Then every file of the result has the bytes of the undisturbed job's, every run was trained to its end
once, and no intermediate file is left.

Each stop (SIGSTOP) hits a worker or a job's own process, of two jobs that share a folder, for longer than their short
leases last; the other job takes over what it held. Then it goes on (SIGCONT), beside its successor. Every file must
have the bytes of the undisturbed job's, and neither job may end otherwise than with exit code 0, or with a traceback.

Each launch starts two recipes on one new folder at the same instant, in a random order. One of them must have the
folder, and the other end with one sentence and exit code 2; the folder must be in order afterwards.
"""

import argparse
import json
import os
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import psutil
from conftest import (
    all_files,
    job_words,
    launch,
    launch_words,
    recipe_of,
    save_tiny_encoder,
    session_of,
    start,
    train,
    train_words,
    wait_for,
)

from smm4h.config.plans.plan import read_plan
from smm4h.parallel.run_state import events
from smm4h.parallel.verification import all_damages
from smm4h.parallel.worker import TAKEN_OVER
from smm4h.utils.errors import ASK_AGAIN
from smm4h.utils.leases import LEASE_VARIABLE

SAVING = {"save_strategy": "steps", "save_steps": 1}
WAIT = 900.0  # seconds until a job is called stuck, on a machine that has other work


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
        with suppress(FileNotFoundError):  # a folder that was removed while Python 3.11 looked into it
            return any(younger(path, job.create_time()) for path in output.glob(PHASES[phase]))
        return False

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
    "checkpointing": "*/fold-*/.work-*/checkpoint-*/rng_state.pth",
    "predicting": "*/fold-*/TRAINED",
    "voting": "[vp]*/.*",
    "any time": "nothing",
}


STOPPED_MEMBERS = {
    "counts": "{classifier: tfidf-logistic}",
    "encoder": "{head: mean, num_train_epochs: 3}",
    "learner": "{head: last3, pseudo_labels: true, num_train_epochs: 3}",
}
SHORT_LEASE = 1.5  # seconds


def stopped_words(encoder: Path, output: Path) -> list[str]:
    """Return the words of the small job that is stopped: three members, two folds, two stages."""
    return job_words(
        encoder, output, recipe=recipe_of(output.parent, **STOPPED_MEMBERS), n_folds=2, runs_per_device=1, **SAVING
    )


def stop_campaign(folder: Path, encoder: Path, undisturbed: Path, n_stops: int, seed: int) -> Counter:
    """Stop processes `n_stops` times beyond their leases; return what was stopped while it did what.

    Raises AssertionError where a job does not end as it should.
    """
    os.environ[LEASE_VARIABLE] = str(SHORT_LEASE)
    rng, hits, number = random.Random(seed), Counter(), 0
    while stops_of(hits) < n_stops:
        number += 1
        output = folder / f"stopped-{number}"
        logs = [folder / f"{output.name}-{job}.log" for job in range(2)]
        words = train_words(stopped_words(encoder, output))
        finish_with_stops([start(words, log) for log in logs], output, rng, hits, n_stops)
        assert not [log for log in logs if "Traceback" in log.read_text()], logs
        check(output, undisturbed, twice=True)
        taken_over = sum(event.get("error") == TAKEN_OVER for run in read_plan(output)[0].runs for event in events(run))
        hits["lost runs"] += taken_over
        print(f"pair {number}: as if undisturbed, after {stops_of(hits)} stops", flush=True)
        shutil.rmtree(output)
    hits["jobs"] = 2 * number
    return hits


def stops_of(hits: Counter) -> int:
    """Return the number of stops among all that is counted."""
    return hits.total() - hits["lost runs"]


def finish_with_stops(jobs: list[psutil.Popen], output: Path, rng: random.Random, hits: Counter, n_stops: int) -> None:
    """Stop processes of the jobs and let them go on, one after the other, until the jobs end; both must succeed."""
    try:
        while stops_of(hits) < n_stops and all(job.poll() is None for job in jobs):
            job, phase = rng.choice(jobs), rng.choice(sorted(PHASES))
            if not reaches(job, output, phase, rng.uniform(1, 5)):
                phase = "any time"
            if any(output.rglob("*.claim")):  # else nothing would be lost
                stop_and_continue(job, rng, hits, phase)
        assert [end(job) for job in jobs] == [0, 0]
    finally:
        for job in jobs:
            end(job, force=True)


def stop_and_continue(job: psutil.Popen, rng: random.Random, hits: Counter, phase: str) -> None:
    """Stop one process of the job for longer than its lease."""
    parts = parts_of(job)
    kinds = [kind for kind in ("worker", "worker", "job") if kind in parts]
    if not kinds:
        return
    kind = rng.choice(kinds)
    with suppress(psutil.NoSuchProcess):
        victim = rng.choice(parts[kind])
        victim.suspend()
        time.sleep(SHORT_LEASE * rng.uniform(1.3, 3))
        victim.resume()
        hits[f"{kind}, SIGSTOP, {phase}"] += 1


RIVALS = {"first": "{head: last3}", "second": "{head: mean, num_train_epochs: 2}"}  # a recipe of one member each


def launch_campaign(folder: Path, encoder: Path, n_launches: int, seed: int) -> Counter:
    """Start two recipes on one folder at the same instant `n_launches` times; return which of them had the folder.

    Raises AssertionError where they do not end as they should.
    """
    rng, winners, recipes = random.Random(seed), Counter(), {}
    for name, row in RIVALS.items():
        (folder / name).mkdir()
        recipes[name] = recipe_of(folder / name, **{f"member-{name}": row})
    for number in range(n_launches):
        output, order = folder / f"launch-{number}", rng.sample(sorted(recipes), 2)
        logs = {name: folder / f"launch-{number}-{name}.log" for name in order}
        jobs = {
            name: start(train_words(job_words(encoder, output, recipe=recipes[name])), logs[name]) for name in order
        }
        winner = winner_of(jobs, logs, output)
        assert Path(json.loads((output / "plan.json").read_text())["recipe_file"]) == recipes[winner]
        assert not list(all_damages(read_plan(output)[0]))
        winners["the one started first" if winner == order[0] else "the one started second"] += 1
        print(f"launch {number}: {winner} has the folder", flush=True)
        shutil.rmtree(output)
    return winners


def winner_of(jobs: dict[str, psutil.Popen], logs: dict[str, Path], output: Path) -> str:
    """Return the job that has the folder, once the other has ended in one sentence; the winner is then stopped."""
    try:
        assert wait_for(lambda: any(job.poll() == 2 for job in jobs.values()), WAIT), logs
        (loser,) = (name for name, job in jobs.items() if job.poll() == 2)
        (winner,) = jobs.keys() - {loser}
        jobs[winner].send_signal(signal.SIGTERM)
        assert (code := end(jobs[winner])) in (0, ASK_AGAIN), f"exit code {code}: {logs[winner].read_text()[-2000:]}"
        (sentence,) = logs[loser].read_text().splitlines()
        assert sentence.startswith(f"error: {output} was made with another recipe"), sentence
        assert not any(word in logs[winner].read_text() for word in ("Traceback", "error:")), logs[winner]
        return winner
    finally:
        for job in jobs.values():
            end(job, force=True)


def check(output: Path, undisturbed: Path, *, twice: bool = False) -> None:
    """Raise AssertionError where the finished job differs from the undisturbed one.

    Args:
        twice: whether a run may have been trained to its end by two processes, one of which was stopped meanwhile.
    """
    files, expected = all_files(output), all_files(undisturbed)
    assert sorted(files) == sorted(expected)
    assert not [name for name in expected if files[name] != expected[name]]
    for run in read_plan(output)[0].runs:
        history = [event["event"] for event in events(run)]
        for last in () if twice else ("trained", "done"):  # a kill may come before the event is logged
            assert history.count(last) <= 1, f"{run.name} was trained to its end twice: {history}"
        names = {path.name for path in run.directory.iterdir()}
        assert names == {"DONE", "attempts.jsonl", "held_out.parquet", "metrics.json", "model", "test.parquet"}
    assert not list(output.rglob("*.claim"))
    assert not list(all_damages(read_plan(output)[0]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--stops", type=int, default=0, help="stop processes so often, instead of killing them")
    parser.add_argument("--launches", type=int, default=0, help="start two recipes on a folder at once, instead")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        encoder = save_tiny_encoder(folder / "encoder")
        if arguments.launches:
            winners = launch_campaign(folder, encoder, arguments.launches, arguments.seed)
            return print(f"{arguments.launches} launches of two recipes, one winner each: {dict(winners)}")
        if arguments.stops:
            result = train(stopped_words(encoder, folder / "undisturbed"))
            assert result.code == 0, result.err
            return report(stop_campaign(folder, encoder, folder / "undisturbed", arguments.stops, arguments.seed))
        result = launch(2, job_words(encoder, folder / "undisturbed"))
        assert result.code == 0, result.err
        report(campaign(folder, encoder, folder / "undisturbed", arguments.kills, arguments.seed))


def report(hits: Counter) -> None:
    """Print how often what was hit, by which signal, and when."""
    jobs, lost = hits.pop("jobs"), hits.pop("lost runs", 0)
    for part in range(3):  # target, signal, phase
        tally = Counter()
        for hit, count in hits.items():
            tally[hit.split(", ")[part]] += count
        print(", ".join(f"{name}: {count}" for name, count in tally.most_common()))
    print(f"{hits.total()} hits over {jobs} jobs; every result has the bytes of the undisturbed one")
    if lost:
        print(f"{lost} times a process that went on found that another had taken its run over")


if __name__ == "__main__":
    main()
