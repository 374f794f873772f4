"""The damage campaign: every file of a job's folder is damaged, one at a time, and must be named or made again.

python tests/damage.py
python tests/damage.py --states finished published --every 5

States of a folder: a finished job; one whose rule `ensemble.py --save` has changed; jobs that were killed in stage 1
with a checkpoint, in stage 2, and while members voted; a published ensemble; predictions that were killed half-way.
Damages of a file: emptied, cut in half, cut at a line end, one bit flipped, deleted.

After each of them every command is given. A command that reads may end with what it gives for the whole folder, or with
one sentence that begins with `error: ` and exit code 2 (`--verify`: 1 or 2). The job's own command must end with exit
code 0 and files that have the bytes of the whole job's. Everything else is a fault, and printed. A finished job and its
siblings have two folds; of their runs, only those of the first fold are damaged.
"""

import argparse
import contextlib
import io
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from conftest import (
    INVENTED,
    CommandResult,
    job_words,
    recipe_of,
    save_tiny_encoder,
    session_of,
    start,
    train_words,
    wait_for,
)

from smm4h.cli import predict, publish, report, train, vote
from smm4h.parallel import fork_server
from smm4h.utils.errors import run_main
from smm4h.utils.temporaries import MARK

ROWS = {
    "counts": "{classifier: tfidf-logistic}",
    "encoder": "{head: mean}",
    "learner": "{head: last3, pseudo_labels: true}",
}
SETTINGS = {"n_folds": 2, "save_strategy": "steps", "save_steps": 1}
OF_ONE_TRAINING = ("DONE", "report.html", "made.json", "plan.json", "attempts.jsonl")  # hold times
WAIT = 300.0  # seconds until a job that does nothing is called stuck


def emptied(content: bytes) -> bytes:
    return b""


def cut_in_half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def cut_at_line_end(content: bytes) -> bytes:
    """Return the content up to the line end that is nearest to its middle from below; all of it without one."""
    end = content.rfind(b"\n", 0, len(content) * 2 // 3)
    return content[: end + 1] if end >= 0 else content


def flipped(content: bytes) -> bytes:
    if not content:
        return content
    place = len(content) * 2 // 3
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes] | None] = {
    "emptied": emptied,
    "cut in half": cut_in_half,
    "cut at a line end": cut_at_line_end,
    "one bit flipped": flipped,
    "deleted": None,
}


def damage(path: Path, kind: str) -> bool:
    """Damage a file; return whether it differs now."""
    change = DAMAGES[kind]
    if change is None:
        path.unlink()
        return True
    before = path.read_bytes()
    path.write_bytes(change(before))
    return change(before) != before


def call(main: Callable, *words: object) -> CommandResult:
    """Give a command in this process, whose imports take longer than most commands."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    before, sys.argv = sys.argv, ["script", *map(str, words)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            run_main(main)
    except SystemExit as stop:
        code = stop.code or 0
    finally:
        sys.argv = before
    return CommandResult(code, out.getvalue(), err.getvalue())


def contents(folder: Path) -> dict[str, bytes]:
    """Return the bytes of all files whose content is the same from any training."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in OF_ONE_TRAINING
    }


def is_one_sentence(result: CommandResult) -> bool:
    """Return whether a command ended as one does that only the user can help."""
    lines = [line for line in result.err.splitlines() if line.strip() and not line.startswith("note: ")]
    return result.code == 2 and len(lines) == 1 and lines[0].startswith("error: ") and "Traceback" not in result.out


@dataclass
class State:
    """A folder to damage, with the commands that read it and the one that completes it.

    Args:
        readers: by name, give a command on a folder; return its result, and the bytes that it has made.
        repair: gives the folder's own command; None where there is none.
        whole: what `repair` must leave.
        in_question: whether the damage of a file, by its name, is tried.
    """

    name: str
    folder: Path
    readers: dict[str, Callable[[Path, Path], tuple[CommandResult, object]]]
    repair: Callable[[Path], CommandResult] | None = None
    whole: object = None
    made: Callable[[Path], object] = contents
    in_question: Callable[[str], bool] = lambda name: True
    answers: dict[str, object] = field(default_factory=dict)  # of the readers, for the whole folder

    def files(self) -> list[str]:
        """Return the names of the files that are damaged."""
        paths = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return [name for name in (str(path.relative_to(self.folder)) for path in paths) if self.in_question(name)]


@dataclass
class Campaign:
    """Damages one file after the other, and counts what becomes of it."""

    place: Path
    outcomes: Counter = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    seconds: Counter = field(default_factory=Counter)

    def try_state(self, state: State, every: int, seed: int) -> None:
        """Try all damages of a state, or every n-th of them."""
        for name, read in state.readers.items():
            result, state.answers[name] = self._read(read, self._copy(state))
            if state.repair is not None and state.name in FINISHED:
                assert result.code == 0, f"{state.name}, {name}: {result}"
        trials = [(name, kind) for name in state.files() for kind in DAMAGES]
        random.Random(seed).shuffle(trials)
        for name, kind in trials[::every]:
            self.try_one(state, name, kind)
        print(f"{state.name}: {len(trials[::every])} damages of {len(state.files())} files", flush=True)

    def try_one(self, state: State, name: str, kind: str) -> None:
        """Damage one file in one way, and give all commands."""
        folder = self._copy(state)
        if not damage(folder / name, kind):
            return
        for reader, read in state.readers.items():
            result, made = self._read(read, folder)
            self._judge_reader(state, name, kind, reader, result, made)
        if state.repair is None:
            return
        result = state.repair(folder)
        if result.code or "Traceback" in result.err + result.out:
            return self._count(state, "the same command", "FAULT", f"{name} {kind}", result)
        if (now := state.made(folder)) != state.whole:
            other = [one for one in {**now, **state.whole} if now.get(one) != state.whole.get(one)]
            return self._count(state, "the same command", "FAULT", f"{name} {kind}: differs in {other[:5]}", result)
        self._count(state, "the same command", "same bytes")

    def _judge_reader(self, state: State, name: str, kind: str, reader: str, result: CommandResult, made) -> None:
        verified = reader == "--verify" and result.code == 1 and "not as written" in result.err
        if verified or is_one_sentence(result):
            self._count(state, reader, "named")
        elif result.code == 0 and made == state.answers[reader] and reader != "--verify":
            self._count(state, reader, "not touched by it")
        elif reader == "--verify" and result.code == 0 and not is_needed(name, state.folder):
            self._count(state, reader, "needed for nothing")
        else:
            self._count(state, reader, "FAULT", f"{name} {kind}", result)

    def _read(self, read: Callable, folder: Path) -> tuple[CommandResult, object]:
        made = self.place / "made"
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir()
        return read(folder, made)

    def _copy(self, state: State) -> Path:
        folder = self.place / "trial"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(state.folder, folder)
        return folder

    def _count(self, state: State, command: str, outcome: str, what: str = "", result=None) -> None:
        self.outcomes[(state.name, command, outcome)] += 1
        if outcome == "FAULT":
            text = f"{state.name}: {what}: {command}: code {result.code}\n  {result.err[-600:]}\n  {result.out[-300:]}"
            self.faults.append(text)
            print(f"FAULT {text}", flush=True)


def is_needed(name: str, folder: Path) -> bool:
    """Return whether any command reads a file for more than its display.

    None reads what lies in the own folder (`.work-*`) of a process that was killed, or under a temporary name; nor the
    out-of-fold table of a vote that was killed before the table was recorded.
    """
    records = folder / "made.json"
    if name == "out_of_fold.parquet" and records.exists() and name not in json.loads(records.read_text("utf-8")):
        return False
    is_of_the_dead = any(part.startswith((".work-", MARK)) for part in Path(name).parts)
    return not is_of_the_dead and Path(name).name not in ("attempts.jsonl", "RUNNING")


FINISHED = ("finished", "saved")


def states_of(place: Path, wanted: Sequence[str]) -> Iterator[State]:
    """Make the folders, and yield the states that are wanted."""
    encoder, new = save_tiny_encoder(place / "encoder"), place / "new.tsv"
    lines = (INVENTED / "task5_test_participant.tsv").read_bytes().splitlines(keepends=True)
    new.write_bytes(b"".join(lines[:41]))
    recipe, output = recipe_of(place, **ROWS), place / "job"

    def words(folder: Path) -> list[str]:
        return job_words(encoder, folder, recipe=recipe, **SETTINGS)

    def train_again(folder: Path) -> CommandResult:
        return call(train.main, *words(folder))

    def read(main: Callable, *options: object, file: str | None = None) -> Callable:
        """Return a reader, which gives a command; `file`: what it makes in the folder, instead of elsewhere."""

        def give(folder: Path, made: Path) -> tuple[CommandResult, object]:
            filled = [str(option).format(folder=folder, made=made) for option in options]
            result = call(main, *filled)
            if file is None:
                return result, contents(made)
            return result, (folder / file).read_bytes() if (folder / file).exists() else None

        return give

    readers = {
        "--verify": read(train.main, "--verify", "--output_dir", "{folder}"),
        "predict.py": read(predict.main, "{folder}", new, "--output", "{made}/labels.tsv", "--use_cpu"),
        "ensemble.py": read(vote.main, "{folder}", "--output", "{made}/vote.tsv"),
        "ensemble.py --method": read(
            vote.main, "{folder}", "--method", "greedy", "--decision", "tuned", "--output", "{made}/v.tsv"
        ),
        "publish.py": read(publish.main, "{folder}", "--to_folder", "{made}/published"),
        "report.py": read(report.main, "{folder}", file="report.html"),
    }
    unfinished = {name: readers[name] for name in ("--verify", "predict.py")}
    result = train_again(output)
    assert result.code == 0, result.err
    whole = contents(output)

    def first_fold(name: str) -> bool:
        return "/fold-1/" not in name

    if "finished" in wanted:
        yield State("finished", output, readers, train_again, whole, in_question=first_fold)
    if "saved" in wanted:
        saved = place / "saved"
        shutil.copytree(output, saved)
        result = call(vote.main, saved, "--method", "hard", "--decision", "recall>=0.9", "--save")
        assert result.code == 0, result.err
        of_rule = readers | {"ensemble.py --save": readers["ensemble.py"]}
        yield State("saved", saved, of_rule, train_again, contents(saved), in_question=lambda name: name.count("/") < 2)
    for name, is_reached in KILLED_WHEN.items():
        if name in wanted:
            killed = killed_job(place / name.replace(" ", "-"), words, is_reached)
            yield State(name, killed, unfinished, train_again, whole, in_question=first_fold)
    if "published" in wanted:
        result = call(publish.main, output, "--to_folder", place / "published")
        assert result.code == 0, result.err
        yield State("published", place / "published", {"predict.py": readers["predict.py"]})
    if "half a prediction" in wanted:
        yield half_a_prediction(place, output)


KILLED_WHEN: dict[str, Callable[[Path], bool]] = {
    "stage 1": lambda folder: any(folder.glob("encoder/fold-0/checkpoint-*/SEALED")),
    "stage 2": lambda folder: (
        any(folder.glob("learner/fold-0/.work-*/**/checkpoint-*"))
        or any(folder.glob("learner/fold-0/checkpoint-*/SEALED"))
    ),
    "vote": lambda folder: (folder / "out_of_fold.parquet").exists(),
}
STATES = ["finished", "saved", *KILLED_WHEN, "published", "half a prediction"]


def killed_job(folder: Path, words: Callable[[Path], list[str]], is_reached: Callable[[Path], bool]) -> Path:
    """Return the folder of a job that was killed (SIGKILL) when it had reached a state."""
    job = start(train_words(words(folder)), folder.with_suffix(".log"))
    reached = wait_for(lambda: job.poll() is not None or is_reached(folder), WAIT)
    for process in session_of(job):
        process.kill()
    job.wait(10)
    assert reached, f"{folder}: the job was over before"
    assert not (folder / "scores.json").exists(), f"{folder} was not killed in time"
    for lease in folder.rglob(".*.claim"):  # of processes that are dead
        lease.unlink()
    return folder


def half_a_prediction(place: Path, job: Path) -> State:
    """Return predictions of many tweets that were killed after some blocks."""
    source = (INVENTED / "task5_test_participant.tsv").read_bytes().splitlines(keepends=True)
    many, folder = place / "many.tsv", place / "half"
    many.write_bytes(b"".join(source[:301]))
    folder.mkdir()

    def command(where: Path) -> list[object]:
        return [job, many, "--output", where / "labels.tsv", "--block", "5", "--use_cpu"]

    def predict_again(where: Path) -> CommandResult:
        return call(predict.main, *command(where))

    whole = place / "whole"
    whole.mkdir()
    assert predict_again(whole).code == 0
    process = start([sys.executable, "predict.py", *command(folder)], place / "half.log")
    wait_for(lambda: process.poll() is not None or len([*folder.rglob("0*.parquet")]) > 3, WAIT)
    for part in session_of(process):
        part.kill()
    process.wait(10)
    assert not (folder / "labels.tsv").exists(), "the prediction was not killed in time"
    for lease in folder.rglob("*.claim"):
        lease.unlink()
    return State("half a prediction", folder, {}, predict_again, contents(whole))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--states", nargs="+", choices=STATES, default=STATES)
    parser.add_argument("--every", type=int, default=1, help="try every n-th damage only")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    os.sched_getaffinity = lambda process: {0}  # one worker, whose bytes and pace depend on nothing else
    fork_server.start()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        campaign = Campaign(Path(name))
        for state in states_of(Path(name), arguments.states):
            campaign.try_state(state, arguments.every, arguments.seed)
    for (state, command, outcome), count in sorted(campaign.outcomes.items()):
        print(f"{state:20} {command:22} {outcome:20} {count:5}")
    print(f"{len(campaign.faults)} faults; {time.monotonic() - began:.0f} s")
    sys.exit(bool(campaign.faults))


if __name__ == "__main__":
    main()
