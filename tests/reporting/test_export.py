"""Published folders load anywhere and label as the job did."""

import builtins
import re
import shutil

import pytest
from conftest import job_words, recipe_of
from fresh_process import labels_in_a_fresh_process

from smm4h.cli import predict, publish, train
from smm4h.data.outputs.label_files import read_labels
from smm4h.models.cleaning import emoji_namer
from smm4h.reporting.export import TOKENIZER_FILES, source_files


def test_a_fresh_process_labels_as_the_job_did_and_members_load_alone(published_job, new_tweets, tmp_path):
    members = sorted((published_job.folder / "members").iterdir())[:4]
    of_ensemble, *of_members = labels_in_a_fresh_process(
        [published_job.folder, *members], new_tweets, tmp_path / "empty"
    )
    assert of_ensemble == read_labels(published_job.job / "votes" / "final.tsv").labels.to_pylist()
    assert [len(labels) for labels in of_members] == [40] * len(members)


def test_predict_takes_the_published_folder(published_job, new_tweets, tmp_path, call):
    columns = ("--columns", "label", "probability", "margin", "votes")
    for name, ensemble in (("job", published_job.job), ("published", published_job.folder)):
        result = call(predict.main, ensemble, new_tweets, "--output", tmp_path / f"{name}.tsv", *columns)
        assert result.code == 0, result.err
    assert (tmp_path / "published.tsv").read_bytes() == (tmp_path / "job.tsv").read_bytes()


def test_published_sources_import_one_another_and_nothing_of_this_project():
    """Each stands for itself in one folder, also those of a package; the Hub's loader knows no other layout."""
    sources = source_files("tweet_ensemble")
    imported = {name for source in sources.values() for name in re.findall(r"^\s*from \.(\w+) import ", source, re.M)}
    assert {f"{name}.py" for name in imported} == {*sources} - {"tweet_ensemble.py"}
    assert not [name for name, source in sources.items() if re.search(r"^\s*(?:from|import) smm4h", source, re.M)]


def test_only_allowed_files_are_published(published_job):
    sources = set(source_files("tweet_ensemble"))
    allowed = {"config.json", "model.safetensors", *TOKENIZER_FILES, *sources}
    for path in published_job.folder.rglob("*"):
        if path.is_file() and path.parent.parent.name == "members":
            assert path.name in allowed
        elif path.is_file() and path.parent.name == "figures":
            assert path.suffix == ".png"
        elif path.is_file():
            assert path.name in {*sources, "config.json", "model.safetensors.index.json", "README.md", "SHA256SUMS"}


def test_a_stray_file_is_not_published_and_base_models_beside_adapters_outlast_another_publication(
    tuned_job, tmp_path, call
):
    shutil.copytree(tuned_job.folder, tmp_path / "job")
    (tmp_path / "job" / "encoder" / "fold-0" / "model" / "tweets.txt").write_text("anything")
    result = call(publish.main, tmp_path / "job", "--to_folder", tmp_path / "published")
    assert result.code == 0, result.err
    assert not list((tmp_path / "published").rglob("tweets.txt"))
    (tmp_path / "published" / "bases" / "qwen").mkdir(parents=True)  # which adapters would stand beside
    (tmp_path / "published" / "bases" / "qwen" / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "published" / "old.txt").write_text("of an earlier publication")
    again = call(publish.main, tuned_job.folder, "--to_folder", tmp_path / "published", "--overwrite")
    assert again.code == 0, again.err
    assert (tmp_path / "published" / "bases" / "qwen" / "model.safetensors").read_bytes() == b"weights"
    assert not (tmp_path / "published" / "old.txt").exists()


@pytest.mark.slow
def test_a_published_pipeline_applies_the_encoders_normalizer_or_asks_for_its_package(
    tiny_encoder, new_tweets, tmp_path, call, monkeypatch
):
    pytest.importorskip("emoji")
    recipe = recipe_of(tmp_path, words="{classifier: tfidf-logistic, cleaning: [bertweet]}")
    result = call(train.main, *job_words(tiny_encoder, tmp_path / "job", recipe=recipe, n_folds=2))
    assert result.code == 0, result.err
    result = call(publish.main, tmp_path / "job", "--to_folder", tmp_path / "published")
    assert result.code == 0, result.err
    assert "pip install emoji==0.6.0" in (tmp_path / "published" / "README.md").read_text()
    (labels,) = labels_in_a_fresh_process([tmp_path / "published"], new_tweets, tmp_path / "empty")
    assert labels == read_labels(tmp_path / "job" / "votes" / "final.tsv").labels.to_pylist()
    find = builtins.__import__
    monkeypatch.setattr(
        builtins, "__import__", lambda name, *rest: find("no_emoji" if name == "emoji" else name, *rest)
    )
    emoji_namer.cache_clear()
    result = call(predict.main, tmp_path / "published", new_tweets, "--output", tmp_path / "labels.tsv")
    assert result.code == 2
    assert "the cleaning step bertweet needs the package emoji" in result.err
    monkeypatch.undo()
    emoji_namer.cache_clear()
