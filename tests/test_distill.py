"""distill.py: one ordinary model that has learnt from the ensemble, and nothing from what it is judged on."""

import json
import signal
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import MEMBERS, QUICKSTART, ROOT, TASK5, session_of, shell, start, wait_for
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import distill
import publish
from smm4h.config.task import read_task
from smm4h.data.dataset import read_tweets
from smm4h.data.prediction_files import read_labels
from smm4h.data.readers import read_tsv
from smm4h.ensemble.fitted_ensemble import FittedEnsemble
from smm4h.ensemble.member_predictions import read_out_of_fold
from smm4h.ensemble.thresholds import class_shares
from smm4h.inference import distillation
from smm4h.inference.distillation import DistillationSet, Student


@pytest.fixture(scope="module")
def words(tuned_job, tiny_encoder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("student") / "student"
    return [tuned_job.folder, "--model_name_or_path", tiny_encoder, "--output_dir", folder, "--use_cpu"]


@pytest.fixture(scope="module")
def made(words, tuned_job):
    outcome = shell(sys.executable, "distill.py", *words, "--num_train_epochs", 1)
    assert outcome.code == 0, outcome.err
    return words[4], outcome


def test_the_student_is_an_ordinary_checkpoint(made):
    folder = made[0] / "model"
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert type(model).__module__.startswith("transformers.")
    assert sorted(path.suffix for path in folder.iterdir()) == [".json", ".json", ".json", ".safetensors"]
    tweets, _ = read_tweets([QUICKSTART / "task5_test_participant.tsv"], read_task(TASK5), labelled=False)
    texts = tweets["text"][:40]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(texts, truncation=True, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(**batch).logits
    written = read_labels(made[0] / "test.tsv").labels.to_pylist()
    chosen = logits[range(len(texts)), [model.config.label2id[label] for label in written]]
    np.testing.assert_allclose(chosen, logits.amax(dim=1), atol=1e-5)  # so close is what a student of one epoch knows


def test_it_gives_each_label_as_often_as_the_ensemble(made, tuned_job):
    ours = read_labels(made[0] / "test.tsv").labels.to_pylist()
    theirs = read_labels(tuned_job.folder / "votes" / "final.tsv").labels.to_pylist()
    for label in ("1", "2", "3"):
        assert abs(ours.count(label) - theirs.count(label)) <= 2


def test_student_ensemble_and_best_member_stand_beside_each_other(made):
    told, about = made[1].out, json.loads((made[0] / "student.json").read_text())
    assert [part["where"] for part in about["scores"]] == ["held-out fold 0", "test"]
    for part in about["scores"]:
        names = list(part["scores"])
        assert names[:2] == ["student", "ensemble"]
        assert names[2] in MEMBERS
        assert set(part["student_against"]) == set(names[1:])
    assert set(about["tweets_per_second"]) == set(names)
    for text in ("held-out fold 0", "student against ensemble: ", "tweets a second: student", "an ordinary checkpoint"):
        assert text in told


def test_labelled_tweets_are_taught_out_of_fold_and_a_check_knows_no_tweet_of_its_fold_or_its_twin(
    tuned_job, tiny_encoder, tmp_path, call, monkeypatch
):
    lessons = []
    learn = Student.learn

    def listen(self, lesson, *rest, **more):
        lessons.append(lesson)
        learn(self, lesson, *rest, **more)

    monkeypatch.setattr(Student, "learn", listen)
    folds = pd.read_parquet(tuned_job.folder / "folds.parquet")
    table = read_tsv(QUICKSTART / "task5_training.tsv", None)
    more = read_tsv(QUICKSTART / "task5_validation.tsv", None)
    texts = dict(zip(table.columns[0] + more.columns[0], table.columns[2] + more.columns[2], strict=True))
    held_out = folds[folds["fold_42"] == 0]
    twin = f"@someone {texts[held_out['id'].iloc[3]]} https://t.co/x"
    (tmp_path / "more.tsv").write_text(f"tweet_id\tuser_id\ttext\n123456789\tu\t{twin}\n123456780\tu\tsomething else\n")
    words = ["--model_name_or_path", tiny_encoder, "--output_dir", tmp_path / "student", "--num_train_epochs", 0.1]
    outcome = call(distill.main, tuned_job.folder, *words, "--unlabelled_file", tmp_path / "more.tsv", "--use_cpu")
    assert outcome.code == 0, outcome.err
    check, student = lessons
    assert twin in student.texts
    assert twin not in check.texts
    assert "something else" in check.texts
    hidden = {text for text in student.texts if text not in check.texts}
    assert len(hidden) >= len(held_out)
    ballots, gold = read_out_of_fold(tuned_job.folder / "out_of_fold.parquet")
    combined = FittedEnsemble.read(tuned_job.folder / "ensemble.json").rule.combine(ballots.probabilities)
    np.testing.assert_allclose(student.targets[: len(gold)], combined)


def test_probabilities_can_be_learnt(tmp_path, tiny_encoder):
    """A word decides; the student is to find out from soft labels alone."""
    rng = np.random.default_rng(0)
    rare = rng.random(400) < 0.3
    letters = ["".join(rng.choice(list("abcdefgh"), 8)) for _ in rare]
    texts = [f"{'baby' if is_rare else 'the'} {more}" for is_rare, more in zip(rare, letters, strict=True)]
    targets = np.where(rare[:, None], [[0.2, 0.8]], [[0.9, 0.1]])
    task = read_task(ROOT / "tasks" / "task1.yaml")
    settings = distillation.RunArguments(
        output_dir=str(tmp_path),
        learning_rate=3e-3,
        num_train_epochs=8,
        per_device_train_batch_size=16,
        adam_beta2=0.95,
        eval_strategy="no",
        use_cpu=True,
        bf16=False,
    )
    student = Student.of_encoder(str(tiny_encoder), task, 32, seed=1)
    student.learn(DistillationSet(texts, targets), settings, "x", lambda *_: None, lambda: False, 5.0)
    found = student.predict_proba(texts)
    assert np.abs(found - targets).mean() < 0.05
    assert class_shares(found.argmax(axis=1), 2)[1] == pytest.approx(rare.mean(), abs=0.02)
    student.match_class_shares(found, np.array([0.8, 0.2]))  # as an ensemble might that doubts some of them
    assert class_shares(student.predict_proba(texts).argmax(axis=1), 2)[1] == pytest.approx(0.2, abs=0.02)


@pytest.mark.slow
def test_a_killed_training_goes_on_and_ends_with_the_same_weights(words, made, tmp_path):
    longer = [*words[:4], tmp_path / "a", "--use_cpu", "--num_train_epochs", 8, "--checks", 0]
    whole = shell(sys.executable, "distill.py", *longer)
    assert whole.code == 0, whole.err
    longer[4] = tmp_path / "b"
    job = start([sys.executable, "distill.py", *longer])
    assert wait_for(lambda: (tmp_path / "b" / ".student").is_dir(), 120)
    job.send_signal(signal.SIGTERM)
    code = job.wait(300)
    assert not session_of(job)
    assert code in (75, 0)
    again = shell(sys.executable, "distill.py", *longer)
    assert again.code == 0, again.err
    files = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in "ab"]
    assert files[0] == files[1]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--train_file", str(QUICKSTART / "task5_validation.tsv")], "the labelled tweets are not those that"),
        (["--model_name_or_path", "nowhere/at-all"], "--model_name_or_path nowhere/at-all can't be loaded"),
        (["--checks", "9"], "--checks 9: the job has 5 folds"),
    ],
)
def test_bad_input_is_one_sentence(words, call, more, message):
    outcome = call(distill.main, *words, "--num_train_epochs", 0.1, *more)
    assert outcome.code == 2
    assert message in outcome.err


def test_a_published_student_has_a_card(made, tmp_path, call):
    outcome = call(publish.main, made[0], "--to_folder", tmp_path / "published")
    assert outcome.code == 0, outcome.err
    card = (tmp_path / "published" / "README.md").read_text()
    assert "that has learnt from an ensemble" in card
    assert "trust_remote_code" not in card
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path / "published").config.num_labels == 3
