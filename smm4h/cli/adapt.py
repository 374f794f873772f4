"""An encoder adapted to your texts, by masked words: for all jobs that start from it.

smm4h adapt ENCODER FILE --output DIR

No label is read. Afterwards --model_name_or_path DIR/model names the adapted encoder. Within a job, the recipe's key
`adapt` does the same. Killed, the same command resumes.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from smm4h.cli.distill import StepDisplay, stop_on_sigterm, take_device
from smm4h.cli.flags import CommandParser
from smm4h.config.arguments import DEFAULTS
from smm4h.config.job import Adaptation, Member, parse_adaptation, with_columns
from smm4h.config.output_paths import check_not_of_job
from smm4h.config.plans.adaptation import adaptation_run
from smm4h.config.plans.run import Run
from smm4h.config.task import Columns, Task
from smm4h.config.task_file import find_task, read_task
from smm4h.config.validation import check_length
from smm4h.models.cleaning import CLEANING_NAMES
from smm4h.parallel.environment import LaunchEnvironment
from smm4h.utils.console import console, silence_libraries
from smm4h.utils.durable import read_checked_json, remove
from smm4h.utils.errors import InputError
from smm4h.utils.files import check_is_input, check_output_folder, read_json

TEXT_COLUMNS = ["text", "tweet", "post", "sentence"]  # of files without a task; the first that a file has
ANY = Task("texts", ["0", "1"], ["1"], "f1", Columns(text=TEXT_COLUMNS, label=["label"]))
UNNAMED = replace(ANY, labels=[], positive=[])  # of files without a task: whatever their column of labels holds is one
TOKENS = "tokens"  # folder of the texts' token ids, while the encoder is adapted
SETTINGS = ("epochs", "learning_rate", "batch_size", "mlm_probability", "seed")  # of `Adaptation`, as flags


def main(words: Sequence[str] | None = None) -> None:
    launch = LaunchEnvironment.detect()
    arguments = read_arguments(words)
    if not launch.is_main_process:
        return  # one encoder is adapted in one process
    take_device(launch, arguments)
    silence_libraries()
    member = member_of(arguments)

    from smm4h.data.dataset import content_hash  # libraries that take seconds to import
    from smm4h.data.splits import UNUSED_LABELS, read_texts
    from smm4h.data.tokenization import check_encoders
    from smm4h.training.adaptation.adapt import adaptation_notes

    options = {"ids_may_lack": True, "unused_labels": UNUSED_LABELS}
    texts, findings = read_texts(arguments.files, task_of(arguments), arguments.encoding, **options)
    for finding in findings:
        console.print(f" {finding}", markup=False, soft_wrap=True)
    run = run_of(member, arguments, content_hash(texts))
    if not is_made(run, overwrite=arguments.overwrite):
        check_encoders([member.with_settings(head="mean")], ANY, texts)  # a head that any encoder has
        for note in adaptation_notes([run]):
            console.print(f"note: {note}", markup=False, soft_wrap=True)
        adapt(run, texts)
    loss = read_json(run.metrics_file)["masked_loss"]
    console.print(
        f"{run.model}  adapted to {len(texts):,} texts; loss of masked words {loss['before']} before, "
        f"{loss['after']} after",
        markup=False,
        soft_wrap=True,
    )


def read_arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = CommandParser(__doc__)
    add, defaults = parser.add_argument, Adaptation()
    add("encoder", help="the encoder: a name on the Hub or a folder")
    add("files", nargs="+", type=Path, metavar="FILE", help="texts, in files or folders of files")
    add("--output", type=Path, required=True, help="the folder of the adapted encoder")
    add("--task", help="task file whose columns the files have (default: a column text, tweet, post or sentence)")
    parser.add_tweet_columns()
    add("--model_revision", default=DEFAULTS["model_revision"], help="branch, tag or commit of the encoder")
    add("--cleaning", nargs="+", default=[], choices=CLEANING_NAMES, help="cleaning steps; none: raw text")
    add("--max_seq_length", type=int, default=DEFAULTS["max_seq_length"], help="longest text in word pieces")
    for name in SETTINGS:
        default = getattr(defaults, name)
        add(f"--{name}", type=type(default), default=default, help=f"({default:g})")
    parser.add_use_cpu()
    parser.add_overwrite()
    arguments = parser.parse(words)
    for file in arguments.files:
        check_is_input(file)
    check_output_folder(arguments.output, [], "--output")
    check_not_of_job(arguments.output)
    return arguments


def member_of(arguments: argparse.Namespace) -> Member:
    """Return the settings as those of a member; raise `InputError` for a number out of its bounds."""
    check_length(arguments.max_seq_length)
    given = json.dumps({name: getattr(arguments, name) for name in SETTINGS})
    try:
        adaptation = parse_adaptation(given)
    except ValueError as error:
        raise InputError(f"--{error}") from None
    values: dict[str, Any] = {
        "model_name_or_path": arguments.encoder,
        "model_revision": arguments.model_revision,
        "cleaning": arguments.cleaning,
        "max_seq_length": arguments.max_seq_length,
        "use_cpu": arguments.use_cpu,
        "adapt": json.dumps(asdict(adaptation)),
    }
    return Member("encoder", {name: value for name, value in values.items() if value != DEFAULTS[name]})


def task_of(arguments: argparse.Namespace) -> Task:
    """Return the task whose columns the files have."""
    return with_columns(read_task(str(find_task(arguments.task))) if arguments.task else UNNAMED, arguments)


def run_of(member: Member, arguments: argparse.Namespace, content: str) -> Run:
    """Return the adaptation, as a run whose folder is the output."""
    own = {**asdict(member.adaptation), "unlabelled": content, "labelled": False, "test": False}
    run = adaptation_run(arguments.output.parent, member.with_settings(adapt=json.dumps(own)), {})
    return Run(run.member, None, arguments.output, run.fingerprint, is_adaptation=True)


def is_made(run: Run, *, overwrite: bool) -> bool:
    """Return whether the output is there and whole.

    Raises `InputError` for a folder of other content, which may be overwritten if it is an adapted encoder.
    """
    from smm4h.parallel.verification import first_damage

    if run.is_done():
        damage = first_damage(run)
        if damage is None:
            return True
        console.print(f"note: {run.directory / damage}; it is made again", markup=False, soft_wrap=True)
        remove(run.done_file)
        return False
    if run.done_file.exists() and read_checked_json(run.done_file) is not None:
        if not overwrite:
            raise InputError(
                f"--output {run.directory} holds an encoder that was adapted otherwise, or to other texts; name "
                "another folder, or replace it with --overwrite"
            )
        remove(run.done_file)
        remove(run.model)
    known = {run.model.name, TOKENS, "made.json", "metrics.json", "attempts.jsonl", "RUNNING", "DONE"}
    names = {path.name for path in run.directory.glob("[!.]*") if not path.name.startswith("checkpoint-")}
    if other := sorted(names - known):
        raise InputError(f"--output {run.directory} holds {other[0]}, which is no part of an adaptation; name another")
    return False


def adapt(run: Run, texts) -> None:
    """Adapt the encoder, and remove the texts' token ids in the end; raise `Stopped` where the process was stopped."""
    from smm4h.training.adaptation.adapt import adapt_encoder
    from smm4h.training.adaptation.texts import file_part, prepare_texts
    from smm4h.training.run_data import RunData
    from smm4h.utils.derived import DerivedFiles
    from smm4h.utils.leases import wait_for_lease

    folder = run.directory / TOKENS
    run.directory.mkdir(parents=True, exist_ok=True)
    tweets = {file_part(run.member.adaptation.unlabelled): texts}
    data = RunData(ANY, run.directory / "folds.parquet", folder, folder, has_test=False)
    with StepDisplay() as display, wait_for_lease(run.lease_file, run.directory) as lease:
        prepare_texts(folder, run.member, tweets, DerivedFiles(run.directory))

        def report(step: int, steps: int) -> None:
            lease.check()
            display.show(run.directory.name, step, steps)

        adapt_encoder(run, data, report, stop_on_sigterm())
        remove(folder)
        remove(DerivedFiles(run.directory).records_file)
