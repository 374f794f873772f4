"""A finished job's ensemble, or a student of it -> one repository on the Hub, in one commit; or a folder.

python publish.py runs/task5 --hub_model_id me/task5-ensemble
python publish.py runs/task5 --to_folder published/task5
python publish.py runs/task5/student --hub_model_id me/task5-student

Private unless --public is given. Nothing with words of a tweet, an id, a user's name or a token in it is uploaded.
"""

import argparse
import tempfile
from pathlib import Path

from smm4h.inference.distillation import STUDENT_FILE
from smm4h.inference.finished_job import FinishedJob
from smm4h.inference.predictor import runs_with_models
from smm4h.reporting.export import DTYPES, publish_checked, write_published, write_published_student
from smm4h.reporting.hub import upload
from smm4h.reporting.model_card import ensemble_card
from smm4h.reporting.privacy import TweetFingerprints
from smm4h.utils.console import silence_libraries
from smm4h.utils.errors import InputError, run_main


def main() -> None:
    arguments = read_arguments()
    silence_libraries()
    with tempfile.TemporaryDirectory(prefix="publish", dir=arguments.to_folder and arguments.to_folder.parent) as room:
        folder = Path(room) / "published"
        folder.mkdir()
        marks = write(arguments, folder)
        place = publish_checked(folder, marks, lambda: deliver(arguments, folder))
    print(f"published to {place}")


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("folder", type=Path, help="the output folder of a finished job that has kept its models, or a student's")
    add("--hub_model_id", help="the repository, such as me/task5-ensemble; made if it is not there")
    add("--to_folder", type=Path, help="a new folder instead, of the same content")
    add("--hub_token", help="token with write access (default: the one that `hf auth login` left)")
    add("--public", action="store_true", help="let everybody see the repository")
    add("--dtype", choices=list(DTYPES), default="float32", help="of the encoders' weights (default: float32)")
    add("--license", help="the model's licence for its card, such as apache-2.0")
    arguments = parser.parse_args()
    if (arguments.hub_model_id is None) == (arguments.to_folder is None):
        raise InputError("say where to: --hub_model_id me/name, or --to_folder FOLDER")
    if arguments.to_folder and arguments.to_folder.exists():
        raise InputError(f"--to_folder {arguments.to_folder} is there already; name a new one")
    if arguments.to_folder:
        arguments.to_folder.parent.mkdir(parents=True, exist_ok=True)
    return arguments


def write(arguments: argparse.Namespace, folder: Path) -> TweetFingerprints:
    """Writes what is to be published, and returns the marks of what must not be."""
    name = arguments.hub_model_id or arguments.to_folder.name
    if (arguments.folder / STUDENT_FILE).is_file():
        return write_published_student(arguments.folder, folder, name, arguments.dtype, arguments.license)
    outcome = FinishedJob.read(arguments.folder)
    marks = TweetFingerprints.read(outcome.plan.fingerprints_file)
    runs = runs_with_models(outcome.plan, outcome.rule.drop_zero_weight())
    write_published(folder, runs, outcome.ensemble, outcome.task, arguments.dtype)
    ensemble_card(outcome, name, arguments.license).write(folder)
    return marks


def deliver(arguments: argparse.Namespace, folder: Path) -> str:
    if arguments.to_folder:
        folder.rename(arguments.to_folder)
        return str(arguments.to_folder)
    return upload(folder, arguments.hub_model_id, token=arguments.hub_token, public=arguments.public)


if __name__ == "__main__":
    run_main(main)
