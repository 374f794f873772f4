"""A job goes on with the encoders that it began with."""

import json
import os
import shutil

import pytest
from conftest import job_words
from safetensors.torch import load_file, save_file

from smm4h.cli.train import main
from smm4h.config.output_paths import ENCODERS_FILE


@pytest.fixture
def encoder(tiny_encoder, tmp_path):
    """A copy of the tiny encoder."""
    return shutil.copytree(tiny_encoder, tmp_path / "encoder")


def change_weights(encoder) -> None:
    weights = load_file(encoder / "model.safetensors")
    weights["embeddings.word_embeddings.weight"][3] += 0.5
    save_file(weights, encoder / "model.safetensors", metadata={"format": "pt"})


def test_an_encoder_that_changed_between_two_commands_is_refused(encoder, tmp_path, call):
    words, output = job_words(encoder, tmp_path / "out", members="last3-42"), tmp_path / "out"
    assert call(main, *words, "--folds", 0).code == 0
    shutil.copytree(encoder, tmp_path / "before")
    change_weights(encoder)
    assert call(main, *words, "--folds", 1, "--check").code == 2
    refused = call(main, *words, "--folds", 1)
    assert refused.code == 2
    assert f"error: {encoder}/model.safetensors changed since the job's first run with it" in refused.err
    assert f"which {output / ENCODERS_FILE} records; bring back what was there" in refused.err
    assert not (output / "last3-42" / "fold-1" / "DONE").exists()
    assert call(main, *words, "--folds", 0).code == 0  # for which nothing is missing
    (output / "last3-42" / "fold-0" / "test.parquet").write_bytes(b"damaged")
    assert call(main, *words, "--folds", 0).code == 2  # it would be made again, with the other encoder
    shutil.rmtree(encoder)
    shutil.move(tmp_path / "before", encoder)
    for path in encoder.iterdir():
        os.utime(path)
    (encoder / "README.md").write_text("what it is")
    assert call(main, *words, "--folds", 0, 1).code == 0


def test_a_tokenizer_that_changed_is_refused_and_a_new_encoder_is_none_that_changed(encoder, tmp_path, call):
    words = job_words(encoder, tmp_path / "out", members="last3-42")
    assert call(main, *words, "--folds", 0).code == 0
    tokenizer = json.loads((encoder / "tokenizer.json").read_text())
    tokenizer["normalizer"]["lowercase"] = not tokenizer["normalizer"]["lowercase"]
    (encoder / "tokenizer.json").write_text(json.dumps(tokenizer))
    refused = call(main, *words, "--folds", 1)
    assert (refused.code, "tokenizer.json changed since" in refused.err) == (2, True)
    other = job_words(encoder, tmp_path / "other", members="last3-42")
    assert call(main, *other, "--folds", 1).code == 0


def test_a_job_of_an_earlier_version_takes_its_encoder_as_it_is(encoder, tmp_path, call):
    words = job_words(encoder, tmp_path / "out", members="last3-42")
    assert call(main, *words, "--folds", 0).code == 0
    (tmp_path / "out" / ENCODERS_FILE).unlink()
    change_weights(encoder)
    assert call(main, *words, "--folds", 1).code == 0
    change_weights(encoder)
    assert call(main, *words, "--folds", 2).code == 2
