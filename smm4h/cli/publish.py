"""A finished job's ensemble, or a student of it -> one repository on the Hub, in one commit; or a folder.

python publish.py runs/task5 --hub_model_id me/task5-ensemble --space
python publish.py runs/task5 --to_folder published/task5
python publish.py runs/task5/student --hub_model_id me/task5-student

--space adds a page that labels what is typed in: a Space NAME-demo, or a folder FOLDER-demo, which loads the model.
Private unless --public is given. Nothing with words of a tweet, an id, a user's name or a token in it is uploaded.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from smm4h.cli.flags import CommandParser, one_of
from smm4h.utils.errors import InputError
from smm4h.utils.files import check_new, check_output_folder, is_same_file
from smm4h.utils.temporaries import private_folder

DEMO = "-demo"  # ends the name of a model's Space


def main(words: Sequence[str] | None = None) -> None:
    arguments = read_arguments(words)
    if arguments.to_folder is None:
        return publish(arguments)

    from smm4h.utils.leases import sole_writer

    with sole_writer(arguments.to_folder):
        check_new_folder(arguments.to_folder, arguments.folder, arguments.overwrite)  # another may have ended just now
        publish(arguments)


def publish(arguments: argparse.Namespace) -> None:
    """Write what is published, check it for leaks, and upload it or move it to its place."""
    from smm4h.inference.predictor import left_out_notices
    from smm4h.reporting.export import base_notice, check_word_members, publish_checked, write_for_publication
    from smm4h.reporting.hub import upload
    from smm4h.reporting.space import write_space
    from smm4h.utils.console import silence_libraries

    def deliver(folder: Path, suffix: str = "", kind: str = "model") -> str:
        if arguments.to_folder:
            return move_to(folder, Path(f"{arguments.to_folder}{suffix}"), temporary / f"replaced{suffix}")
        name = f"{arguments.hub_model_id}{suffix}"
        return upload(folder, name, token=arguments.hub_token, public=arguments.public, kind=kind)

    silence_libraries()
    is_upload = arguments.hub_model_id is not None and not arguments.readable_words
    for notice in left_out_notices(str(arguments.folder)):
        print(f"note: {notice}", file=sys.stderr)
    if warning := check_word_members(arguments.folder, is_upload=is_upload):
        print(f"warning: {warning}", file=sys.stderr)
    if notice := base_notice(arguments.folder):
        print(f"note: {notice}", file=sys.stderr)
    name = arguments.hub_model_id or arguments.to_folder.name
    place = arguments.to_folder.parent if arguments.to_folder else Path(tempfile.gettempdir())
    with private_folder(place) as temporary:
        folder, space = temporary / "published", temporary / "space"
        folder.mkdir()
        unpublished = write_for_publication(arguments.folder, folder, name, arguments.dtype, arguments.license)
        if arguments.space:
            space.mkdir()
            model = arguments.hub_model_id or f"../{arguments.to_folder.name}"
            unpublished.check(space, write_space(space, model, folder, unpublished.task, arguments.license))
        print(f"published to {publish_checked(folder, unpublished, lambda: deliver(folder))}")
        if arguments.space:
            print(f"its demo: {deliver(space, DEMO, 'space')}")


def move_to(folder: Path, target: Path, replaced: Path) -> str:
    """Move a folder to its place, and what was there to `replaced`; return the place.

    Base models that were put beside adapters stay: they are no part of what is published.
    """
    from heads import BASES  # imports torch

    if target.exists():
        target.rename(replaced)
    folder.rename(target)
    if (replaced / BASES).is_dir():
        (replaced / BASES).rename(target / BASES)
    return str(target)


def read_arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = CommandParser(__doc__)
    add = parser.add_argument
    add("folder", type=Path, help="the output folder of a finished job that has kept its models, or a student's")
    add("--hub_model_id", help="the repository, such as me/task5-ensemble; made if it is not there")
    add("--to_folder", type=Path, help="a new folder instead, of the same content")
    add("--hub_token", help="token with write access (default: the one that `hf auth login` left)")
    add("--space", action="store_true", help="publish a demo beside it: NAME-demo on the Hub, or FOLDER-demo")
    add("--public", action="store_true", help="let everybody see the repository")
    dtypes = ("float32", "bfloat16")
    add("--dtype", type=one_of(dtypes), default="float32", help="of the encoders' weights: float32 or bfloat16")
    add("--readable_words", action="store_true", help="upload members of older versions whose words can be read back")
    add("--license", help="the model's licence for its card, such as apache-2.0")
    parser.add_overwrite()
    arguments = parser.parse(words)
    if (arguments.hub_model_id is None) == (arguments.to_folder is None):
        raise InputError("say where to: --hub_model_id me/name, or --to_folder FOLDER")
    if arguments.to_folder:
        check_new_folder(arguments.to_folder, arguments.folder, arguments.overwrite)
        if arguments.space:
            check_new_space(Path(f"{arguments.to_folder}{DEMO}"), arguments.overwrite)
        arguments.to_folder.parent.mkdir(parents=True, exist_ok=True)
    return arguments


def check_new_folder(folder: Path, source: Path, overwrite: bool) -> None:
    """Raise `InputError` for a folder that lies in the published one or in a job's, and for one that is there.

    A folder that was published before may be overwritten.
    """
    check_output_folder(folder, [source], "--to_folder")
    is_published = all((folder / name).is_file() for name in ("README.md", "config.json"))
    if folder.is_symlink() or (folder.exists() and (not is_published or is_same_file(folder, source))):
        raise InputError(f"--to_folder {folder} is there already, and no earlier publication; name a new one")
    check_new(folder, overwrite, "--to_folder")
    for parent in Path(os.path.realpath(folder)).parents:
        if (parent / "plan.json").is_file():
            raise InputError(f"--to_folder {folder} lies in {parent}, a job's folder; name a place outside it")


def check_new_space(folder: Path, overwrite: bool) -> None:
    """Raise `InputError` for a Space's folder that is there; one that was published before may be overwritten."""
    is_space = all((folder / name).is_file() for name in ("README.md", "app.py", "demo.json"))
    if folder.is_symlink() or (folder.exists() and not is_space):
        raise InputError(f"{folder}, where --space would write, is there already and no earlier demo; move it away")
    check_new(folder, overwrite, "--space")
