"""Settings that are out of range or contradict each other are refused before anything is trained."""

import pytest
from conftest import INVENTED, ROOT, job_words, recipe_of

from smm4h.cli.train import main


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("class_weights: {4: 2}", "class_weights: 4 is none of the labels 1, 2, 3"),
        ("class_weights: heavy", "write balanced, or a weight for each label, such as {1: 5}"),
        ("class_weights: {1: 0, 2: 0, 3: 0}", "at least one label must count"),
        ("negatives_per_positive: 0", "--negatives_per_positive"),
        ("positive_copies: 0", "--positive_copies 0 is out of its range: 1 or more"),
        ("layer_decay: 1.5", "--layer_decay 1.5 is out of its range: above 0, 1 at most"),
        ("learning_rate_width: -1", "--learning_rate_width -1 is out of its range: 0 or more"),
        ("focal_gamma: -1", "--focal_gamma -1.0 is out of its range"),
    ],
)
def test_a_setting_out_of_range_is_named_with_its_line(tiny_encoder, tmp_path, call, row, message):
    recipe = recipe_of(tmp_path, odd=f"{{head: mean, {row}}}")
    result = call(main, *job_words(tiny_encoder, tmp_path / "out", recipe=recipe))
    assert result.code == 2
    assert message in result.err
    assert "recipe.yaml, line" in result.err


TEACHERS = {
    "one": "{head: mean, fold_seed: 42}",
    "two": "{classifier: tfidf-logistic, fold_seed: 42, refit: true}",
    "other": "{classifier: tfidf-svm, fold_seed: 24}",
}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--pseudo_from", "unseen"], "every teacher has seen tweets that its folds hold out"),
        (["--pseudo_confidence", "2"], "--pseudo_confidence 2.0 is out of its range: from 0 to 1"),
        (["--group_users"], "--group_users needs --fold_by stratified_group"),
    ],
)
def test_what_would_leak_or_make_no_sense_is_refused(tiny_encoder, tmp_path, call, flags, message):
    student = {"student": "{head: mean, fold_seed: 7, pseudo_labels: true}"}
    recipe = recipe_of(tmp_path, **TEACHERS, **student)
    result = call(main, *job_words(tiny_encoder, tmp_path / "out", *flags, recipe=recipe))
    assert result.code == 2
    assert message in result.err


def test_an_unlabelled_file_without_students_is_refused(tiny_encoder, tmp_path, call):
    file = INVENTED / "task5_test_participant.tsv"
    recipe = recipe_of(tmp_path, **TEACHERS)
    result = call(main, *job_words(tiny_encoder, tmp_path / "out", recipe=recipe, unlabelled_file=file))
    assert result.code == 2
    assert "no member of the recipe trains on pseudo labels" in result.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            {"gold_file": INVENTED / "task5_test_participant.tsv"},
            "--gold_file has labels of test tweets, and there are",
        ),
        ({"dataset_config_name": "german"}, "--dataset_config_name is about the tweets of --dataset_name, which names"),
        ({"extra_parent_column": "origin"}, "--extra_parent_column is about the tweets of --extra_train_file, which"),
    ],
)
def test_a_flag_about_input_that_is_not_named_is_refused(tmp_path, call, flags, message):
    """It would be passed over: its user would wait for scores that never come."""
    flags |= {"train_file": INVENTED / "task5_training.tsv", "task": ROOT / "tasks" / "task5.yaml"}
    recipe = recipe_of(tmp_path, counts="{classifier: tfidf-logistic}")
    words = [word for flag, value in flags.items() for word in (f"--{flag}", value)]
    result = call(main, recipe, *words, "--output_dir", tmp_path / "out", "--check")
    assert (result.code, message in result.err) == (2, True), result.err


def test_a_round_without_teachers_is_refused(tiny_encoder, tmp_path, call):
    recipe = recipe_of(tmp_path, **TEACHERS, late="{head: mean, pseudo_labels: true, pseudo_round: 2}")
    result = call(main, *job_words(tiny_encoder, tmp_path / "out", recipe=recipe))
    assert result.code == 2
    assert "pseudo_round 2 has no teachers" in result.err
