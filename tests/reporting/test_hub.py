"""Uploads to a fake Hub."""

import json

import pytest
from conftest import job_words, python, train
from fake_hub import Repository
from fresh_process import labels_in_a_fresh_process

from smm4h.data.outputs.label_files import read_labels


def test_one_commit_makes_a_private_repository_that_loads_by_name(tuned_job, hub, new_tweets, tmp_path):
    environment = hub.environment(tmp_path / "home")
    words = ["publish.py", tuned_job.folder, "--hub_model_id", "me/ensemble", "--space"]
    result = python(*words, env=environment)
    assert result.code == 0, result.err
    repository, space = hub.repositories["me/ensemble"], hub.repositories["me/ensemble-demo"]
    assert repository.private
    assert space.private
    assert json.loads(space.files["demo.json"])["model"] == "me/ensemble"
    assert space.commits == ["Publish me/ensemble-demo"]
    assert repository.commits == ["Publish me/ensemble"]
    expected = read_labels(tuned_job.folder / "votes" / "final.tsv").labels.to_pylist()
    anonymous = {name: environment[name] for name in ("HF_ENDPOINT", "HF_HUB_OFFLINE")}
    assert labels_in_a_fresh_process(["me/ensemble"], new_tweets, tmp_path / "empty", anonymous) == [expected]
    predict_words = ["predict.py", "me/ensemble", new_tweets, "--output", tmp_path / "l.tsv", "--columns", "label"]
    result = python(*predict_words, env=environment)
    assert result.code == 0, result.err
    assert (tmp_path / "l.tsv").read_bytes() == (tuned_job.folder / "votes" / "final.tsv").read_bytes()
    repository.files |= {"members/gone/config.json": b"{}", ".gitattributes": b"*"}
    assert python(*words, env=environment).code == 0
    assert ".gitattributes" in repository.files
    assert "members/gone/config.json" not in repository.files
    assert len(repository.commits) == 2


def test_a_public_repository_is_not_overwritten_unasked(tuned_job, hub, tmp_path):
    hub.repositories["me/ensemble"] = Repository(commits=["first"])
    words = ["publish.py", tuned_job.folder, "--hub_model_id", "me/ensemble"]
    result = python(*words, env=hub.environment(tmp_path))
    assert result.code == 2
    assert "me/ensemble can be seen by everybody; say --public" in result.err
    assert hub.repositories["me/ensemble"].commits == ["first"]
    assert python(*words, "--public", env=hub.environment(tmp_path)).code == 0


def test_without_a_hub_one_sentence_says_so(tuned_job, hub, tmp_path):
    hub.close()
    words = ["publish.py", tuned_job.folder, "--hub_model_id", "me/ensemble"]
    result = python(*words, env=hub.environment(tmp_path))
    assert result.code == 2
    assert "error: the Hub did not take" in result.err
    assert "Traceback" not in result.err


@pytest.mark.slow
def test_one_run_is_pushed_by_the_flags_of_transformers(tiny_encoder, hub, new_tweets, tmp_path):
    words = job_words(tiny_encoder, tmp_path / "out", push_to_hub=True, hub_model_id="me/one")
    environment = hub.environment(tmp_path / "home")
    many = train(words, env=environment)
    assert many.code == 2
    assert "--push_to_hub pushes one run of a member: name it with --members and --folds" in many.err
    one = train([*words, "--members", "last3-42", "--folds", "0"], env=environment)
    assert one.code == 0, one.err
    repository = hub.repositories["me/one"]
    assert repository.private
    assert len(repository.commits) == 1
    assert {"README.md", "config.json", "heads.py", "model.safetensors"} <= set(repository.files)
    assert not any("parquet" in name or "tsv" in name for name in repository.files)
    assert "last3-42" in repository.files["README.md"].decode()
    anonymous = {name: environment[name] for name in ("HF_ENDPOINT", "HF_HUB_OFFLINE")}
    assert len(labels_in_a_fresh_process(["me/one"], new_tweets, tmp_path / "empty", anonymous)[0]) == 40
