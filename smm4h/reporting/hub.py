"""The Hub: which names are its own, and uploads, of one repository in one commit."""

from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from smm4h.utils.errors import InputError


def is_hub_name(name: str) -> bool:
    """Whether an encoder's name is one of the Hub, not of a folder here."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return not Path(name).exists()


def display_name(name: str) -> str:
    """An encoder's name; of a folder of this machine its last part only."""
    return name if is_hub_name(name) else Path(name).name


def upload(folder: Path, name: str, *, token: str | None, public: bool) -> str:
    """Makes the repository hold just what the folder holds, in one commit; returns its address.

    Raises `InputError` for what the Hub refuses: the card's metadata before anything is uploaded; and for a repository
    that everybody can see where that is not what was asked for.
    """
    api = HfApi(token=token)
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise InputError(f"--hub_model_id {name}: {_in_a_line(error)}") from None
    try:
        ModelCard.load(folder / "README.md").validate()
        name = api.create_repo(name, private=not public, exist_ok=True).repo_id
        if not public and not api.repo_info(name).private:
            raise InputError(f"{name} can be seen by everybody; say --public, or make it private first")
        # Not by upload_folder, which makes several commits of a large folder: nobody may load half an ensemble.
        done = api.create_commit(name, _operations(folder, api.list_repo_files(name)), commit_message=f"Publish {name}")
    except InputError:
        raise
    except ValueError as error:  # what the Hub says of the card's metadata
        raise InputError(f"the Hub does not take the model card: {_in_a_line(error)}") from None
    except Exception as error:  # no right, no network: errors of whichever library huggingface_hub speaks HTTP by
        raise InputError(f"the Hub did not take {name}: {_in_a_line(error)}") from None
    return done.commit_url


def _operations(folder: Path, there: list[str]) -> list[CommitOperationAdd | CommitOperationDelete]:
    """What makes a repository with the files `there` hold just what the folder holds."""
    files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    gone = [name for name in there if name not in files and name != ".gitattributes"]
    added = [CommitOperationAdd(name, path) for name, path in files.items()]
    return [*added, *(CommitOperationDelete(name, is_folder=False) for name in gone)]


def _in_a_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
