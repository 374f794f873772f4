"""Uploads to the Hub: one repository, one commit."""

from pathlib import Path

from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

from smm4h.errors import InputError


def upload(folder: Path, name: str, *, token: str | None, public: bool) -> str:
    """Makes the repository hold just what the folder holds, in one commit; returns its address.

    Raises `InputError` for what the Hub refuses: the card's metadata before anything is uploaded; and for a repository
    that everybody can see where that is not what was asked for.
    """
    api = HfApi(token=token)
    try:
        ModelCard.load(folder / "README.md").validate()
        name = api.create_repo(name, private=not public, exist_ok=True).repo_id
        if not public and not api.repo_info(name).private:
            raise InputError(f"{name} can be seen by everybody; say --public, or make it private first")
        done = api.upload_folder(
            repo_id=name, folder_path=folder, commit_message=f"Publish {name}", delete_patterns=["*"]
        )
    except (HFValidationError, LocalTokenNotFoundError) as error:
        raise InputError(f"--hub_model_id {name}: {_in_a_line(error)}") from None
    except (HfHubHTTPError, OSError) as error:
        raise InputError(f"the Hub did not take {name}: {_in_a_line(error)}") from None
    except ValueError as error:  # the card's metadata
        raise InputError(f"the Hub does not take the model card: {_in_a_line(error)}") from None
    return done.commit_url


def _in_a_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
