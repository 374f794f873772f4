"""A finished job's command, with flags for tweets that have moved."""

from types import SimpleNamespace

import pytest
from conftest import INVENTED, job_words

from smm4h.inference.commanded_job import command_of_job

FILES = ("data_dir", "train_file", "validation_file", "test_file", "gold_file", "dataset_name")


def named_files(words, moved) -> dict:
    """The tweets that a job of these words reads, once some have moved."""
    settings = command_of_job(SimpleNamespace(command=words), [str(word) for word in moved]).settings
    return {name: value for name in FILES if (value := getattr(settings, name))}


@pytest.mark.parametrize(
    ("moved", "files"),
    [
        ({"dataset_name": "me/tweets"}, {"dataset_name": "me/tweets"}),
        ({"dataset_name": "me/tweets", "test_file": "t.csv"}, {"dataset_name": "me/tweets", "test_file": "t.csv"}),
        ({"data_dir": "elsewhere"}, {"data_dir": "elsewhere", "test_file": "a.csv"}),
        ({}, {"data_dir": str(INVENTED), "test_file": "a.csv"}),
    ],
)
def test_files_that_have_moved_to_the_hub_are_read_there_alone(tiny_encoder, tmp_path, moved, files):
    words = job_words(tiny_encoder, tmp_path / "out", data_dir=INVENTED, test_file="a.csv")
    assert named_files(words, [word for name, value in moved.items() for word in (f"--{name}", value)]) == files


def test_a_dataset_that_has_moved_into_files_is_read_there_alone(tiny_encoder, tmp_path):
    words = job_words(tiny_encoder, tmp_path / "out", dataset_name="me/tweets")
    at = words.index("--data_dir")
    words = words[:at] + words[at + 2 :]
    assert named_files(words, ["--train_file", "a.csv"]) == {"train_file": ["a.csv"]}
    moved = {"dataset_name": "me/tweets", "gold_file": "g.csv"}
    assert named_files(words, ["--gold_file", "g.csv"]) == moved
