"""Distillation: the student learns probabilities, and nothing from tweets that it is scored on."""

import numpy as np
import pandas as pd
import pytest
from conftest import INVENTED, ROOT

from smm4h.cli.distill import main
from smm4h.config.task_file import read_task
from smm4h.data.readers.formats import read_tsv
from smm4h.ensemble.decisions.thresholds import class_shares
from smm4h.ensemble.fitted_ensemble import FittedEnsemble
from smm4h.ensemble.member_predictions import read_out_of_fold
from smm4h.inference.distilling.examples import DistillationSet
from smm4h.inference.distilling.student import Student
from smm4h.training.resumable import RunArguments


def test_targets_are_out_of_fold_and_a_check_sees_no_tweet_of_its_fold_nor_a_duplicate(
    tuned_job, tiny_encoder, tmp_path, call, monkeypatch
):
    training_sets = []
    learn = Student.learn

    def record(self, examples, *rest, **more):
        training_sets.append(examples)
        learn(self, examples, *rest, **more)

    monkeypatch.setattr(Student, "learn", record)
    folds = pd.read_parquet(tuned_job.folder / "folds.parquet")
    table = read_tsv(INVENTED / "task5_training.tsv", None)
    more = read_tsv(INVENTED / "task5_validation.tsv", None)
    texts = dict(zip(table.columns[0] + more.columns[0], table.columns[2] + more.columns[2], strict=True))
    held_out = folds[folds["fold_42"] == 0]
    duplicate = f"@someone {texts[held_out['id'].iloc[3]]} https://t.co/x"
    (tmp_path / "more.tsv").write_text(
        f"tweet_id\tuser_id\ttext\n123456789\tu\t{duplicate}\n123456780\tu\tsomething else\n"
    )
    words = ["--model_name_or_path", tiny_encoder, "--output_dir", tmp_path / "student", "--num_train_epochs", 0.1]
    result = call(main, tuned_job.folder, *words, "--unlabelled_file", tmp_path / "more.tsv", "--use_cpu")
    assert result.code == 0, result.err
    check, student = training_sets
    assert duplicate in student.texts
    assert duplicate not in check.texts
    assert "something else" in check.texts
    left_out = {text for text in student.texts if text not in check.texts}
    assert len(left_out) >= len(held_out)
    predictions, gold = read_out_of_fold(tuned_job.folder / "out_of_fold.parquet")
    combined = FittedEnsemble.read(tuned_job.folder / "ensemble.json").rule.combine(predictions.probabilities)
    np.testing.assert_allclose(student.targets[: len(gold)], combined)


def test_a_student_learns_probabilities(tmp_path, tiny_encoder):
    """One word decides, which only the soft labels show."""
    rng = np.random.default_rng(0)
    rare = rng.random(400) < 0.3
    letters = ["".join(rng.choice(list("abcdefgh"), 8)) for _ in rare]
    texts = [f"{'baby' if is_rare else 'the'} {word}" for is_rare, word in zip(rare, letters, strict=True)]
    targets = np.where(rare[:, None], [[0.2, 0.8]], [[0.9, 0.1]])
    task = read_task(ROOT / "tasks" / "task1.yaml")
    settings = RunArguments(
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
    probs = student.predict_proba(texts)
    assert np.abs(probs - targets).mean() < 0.05
    assert class_shares(probs.argmax(axis=1), 2)[1] == pytest.approx(rare.mean(), abs=0.02)
    student.match_class_shares(probs, np.array([0.8, 0.2]))  # an ensemble with another decision
    assert class_shares(student.predict_proba(texts).argmax(axis=1), 2)[1] == pytest.approx(0.2, abs=0.02)
