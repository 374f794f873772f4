"""Hugging Face Hub: recognise its names, and upload a folder as one repository in one commit."""

from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard, SpaceCard
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from smm4h.utils.errors import InputError
from smm4h.utils.tracebacks import without_secrets


def is_hub_name(name: str) -> bool:
    """Return whether an encoder's name is a repository on the Hub and not a local folder."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return not Path(name).exists()


def display_name(name: str) -> str:
    """Return an encoder's name; for a local folder its last part only, since paths are private."""
    return name if is_hub_name(name) else Path(name).name


CARDS = {"model": ModelCard, "space": SpaceCard}


def upload(folder: Path, name: str, *, token: str | None, public: bool, kind: str = "model") -> str:
    """Make a repository hold exactly the files of a folder, in one commit, and return the commit's URL.

    Args:
        kind: `model`, or `space` for a page of Gradio.

    Raises `InputError` for what the Hub rejects (invalid card metadata before anything is uploaded), and for an
    existing public repository without `public`.
    """
    api = HfApi(token=token)
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise InputError(f"--hub_model_id {name}: {_one_line(error)}") from None
    try:
        CARDS[kind].load(folder / "README.md").validate()
        sdk = "gradio" if kind == "space" else None
        name = api.create_repo(name, private=not public, exist_ok=True, repo_type=kind, space_sdk=sdk).repo_id
        if not public and not api.repo_info(name, repo_type=kind).private:
            raise InputError(f"{name} can be seen by everybody; say --public, or make it private first")
        # Not by upload_folder: between its several commits of a large folder, half an ensemble could be loaded.
        operations = _operations(folder, api.list_repo_files(name, repo_type=kind))
        done = api.create_commit(name, operations, commit_message=f"Publish {name}", repo_type=kind)
    except InputError:
        raise
    except ValueError as error:  # raised by the Hub's check of the card's metadata
        raise InputError(f"the Hub does not take the model card: {_one_line(error)}") from None
    except Exception as error:  # no permission or network; the class depends on huggingface_hub's HTTP library
        raise InputError(f"the Hub did not take {name}: {_one_line(error)}") from None
    return done.commit_url


def _operations(folder: Path, remote: list[str]) -> list[CommitOperationAdd | CommitOperationDelete]:
    """Return the operations that turn a repository with the `remote` files into a copy of the folder."""
    # With slashes on every system: with Windows' backslashes, the Hub would hold one file with a long name.
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    removed = [name for name in remote if name not in files and name != ".gitattributes"]
    added = [CommitOperationAdd(name, path) for name, path in files.items()]
    return [*added, *(CommitOperationDelete(name, is_folder=False) for name in removed)]


def _one_line(error: Exception) -> str:
    """Return an error's message on one line, cut to 300 characters."""
    return without_secrets(" ".join(str(error).split()))[:300]
