"""The command `predict` with the jobs of all subtasks: one file with the columns of each."""

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path

from smm4h import __version__
from smm4h.config.plans.subtask_jobs import SubtaskJobs
from smm4h.utils.durable import hash_files
from smm4h.utils.errors import InputError
from smm4h.utils.files import PIPE, beside, sync, write_text
from smm4h.utils.temporaries import private_folder

ROWS = 10_000  # of the joint file that are in memory at once
MADE_FROM = ".from"  # ending of the file that says what a subtask's predictions were made from


def predict_subtasks(
    jobs: SubtaskJobs,
    arguments: argparse.Namespace,
    predict_file: Callable[[argparse.Namespace], None],
    *,
    is_main: bool,
) -> None:
    """Predict the tweets by one subtask's ensemble after the other, and write the columns of all into one file.

    Killed, the same command resumes: a subtask that is predicted is not predicted again.

    Args:
        predict_file: predicts by the ensemble, and into the output, that its arguments name.
        is_main: whether this is the main process of the launch, which writes the joint file.
    """
    place = tempfile.gettempdir() if arguments.output == PIPE else Path(arguments.output).parent
    with private_folder(Path(place)) as private:
        given = arguments.input
        if given == PIPE:
            given = str(private / "tweets.tsv")
            with Path(given).open("wb") as stream:
                shutil.copyfileobj(sys.stdin.buffer, stream)
        folder = private if arguments.output == PIPE else beside(Path(arguments.output), ".subtasks")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        files = {name: folder / f"{name}.parquet" for name in jobs.subtasks.names}
        for name, path in files.items():
            own = argparse.Namespace(**{**vars(arguments), "ensemble": str(jobs.folders[name]), "input": given})
            own.output, own.overwrite = str(path), True
            source = source_of(own)
            if not is_made_from(path, source):
                predict_file(own)
                if is_main:
                    write_text(path.with_suffix(MADE_FROM), source)
        if is_main:
            join(files, arguments, jobs)
            shutil.rmtree(folder, ignore_errors=True)


def source_of(arguments: argparse.Namespace) -> str:
    """Return a hash of what a subtask's predictions depend on: ensemble, tweets, and how both are read."""
    from smm4h.data.readers.formats import input_files

    ensemble = {name: Path(arguments.ensemble) / name for name in ("plan.json", "ensemble.json")}
    if not all(path.is_file() for path in ensemble.values()):
        raise InputError(f"{arguments.ensemble} has no final vote yet; give the command of all subtasks first")
    tweets = {str(path): path for path in input_files(arguments.input)}
    hashes = {name: found["sha256"] for name, found in hash_files({**ensemble, **tweets}).items()}
    reading = {key: value for key, value in vars(arguments).items() if key.endswith("_column_name")}
    content = [__version__, sorted(hashes.items()), reading, arguments.encoding, arguments.columns]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def is_made_from(path: Path, source: str) -> bool:
    """Return whether a subtask's predictions are there and were made from a source."""
    record = path.with_suffix(MADE_FROM)
    return path.exists() and record.exists() and record.read_text(encoding="utf-8") == source


def join(files: Mapping[str, Path], arguments: argparse.Namespace, jobs: SubtaskJobs) -> None:
    """Write the predictions of all subtasks side by side, row by row."""
    import pyarrow as pa

    from smm4h.data.streaming import Writer

    tables = joint_tables(files, arguments.columns, jobs)
    first = next(tables, None)
    if first is None:
        raise InputError(f"{arguments.input} holds no tweet")
    output = None if arguments.output == PIPE else Path(arguments.output)
    partial = output and next(iter(files.values())).parent / f"joined{''.join(output.suffixes[-2:])[-20:]}"
    with Writer(partial, pa.schema(first.schema)) as writer:
        for table in chain([first], tables):
            writer.write(table)
    if output is not None:
        sync(partial)
        partial.replace(output)


def joint_tables(files: Mapping[str, Path], columns: list[str], jobs: SubtaskJobs) -> Iterator:
    """Yield tables of ids and the columns of each subtask, in the tweets' order.

    Raises `InputError` where the subtasks were predicted for other tweets, as happens where these changed meanwhile.
    """
    import pyarrow as pa
    import pyarrow.parquet

    parts = [pa.parquet.ParquetFile(path).iter_batches(batch_size=ROWS) for path in files.values()]
    for batches in zip(*parts, strict=True):
        ids, arrays, names = batches[0].column(0), [], []
        for subtask, batch in zip(files, batches, strict=True):
            if not batch.column(0).equals(ids):
                raise InputError("the tweets were changed while they were predicted; repeat")
            arrays += batch.columns[1:]
            label = jobs.subtasks.columns[subtask]
            names += [label if name == "label" else f"{subtask}_{name}" for name in columns]
        id_name = jobs.subtasks.submission.columns[0]
        yield pa.Table.from_arrays([ids, *arrays], names=[id_name, *names])
