"""Members that are predictions of a model from elsewhere: they vote like the rest, and leaks are refused or named."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, train_here

import smm4h
from smm4h.cli import predict, publish
from smm4h.cli.train import main
from smm4h.config.recipe import read_command_line
from smm4h.config.validation import check_input_files
from smm4h.data.outputs.predictions import read_predictions
from smm4h.data.splits import load_splits
from smm4h.utils.errors import InputError

LABELS = ["none", "side_effect"]
N_LABELLED, N_TEST = 120, 80
RECIPE = """
shared: {n_folds: 3, vote: soft, decision: tuned, refit: true}
members:
  words: {classifier: tfidf-logistic}
  judge: {predictions: {out_of_fold: OUT, test: TEST}}
"""


def write_tweets(folder):
    """Write tweets of which words tell little, and a judge's probabilities, as good on either part; return gold."""
    rng = np.random.default_rng(5)
    gold = (np.arange(N_LABELLED + N_TEST) % 4 == 0).astype(int)
    words = ["pain" if rng.random() < (0.6 if label else 0.3) else "walk" for label in gold]
    texts = [f"day {rng.integers(99)} of {word} {rng.integers(99)}" for word in words]
    table = pd.DataFrame({"id": 1000 + np.arange(len(gold)), "text": texts, "label": [LABELS[label] for label in gold]})
    table[:N_LABELLED].to_csv(folder / "train.csv", index=False)
    table[N_LABELLED:].drop(columns="label").to_csv(folder / "test.csv", index=False)
    table[N_LABELLED:].drop(columns="text").to_csv(folder / "gold.csv", index=False)
    side_effect = np.clip(0.5 + 0.25 * (2 * gold - 1) + rng.normal(0, 0.2, len(gold)), 0.02, 0.98)
    judge = pd.DataFrame({"id": table["id"], "p_none": 1 - side_effect, "p_side_effect": side_effect})
    judge[:N_LABELLED].sample(frac=1, random_state=1).to_csv(folder / "judge.csv", index=False)  # in any order
    judge[N_LABELLED:].to_parquet(folder / "judge_test.parquet")
    return gold


def command(folder, recipe=RECIPE, out_of_fold="judge.csv", test="judge_test.parquet", more=()):
    recipe = recipe.replace("OUT", str(folder / out_of_fold)).replace("TEST", str(folder / test))
    (folder / "recipe.yaml").write_text(recipe)
    words = [folder / "recipe.yaml", "--task", ROOT / "tasks" / "own_data.yaml", "--train_file", folder / "train.csv"]
    words += ["--test_file", folder / "test.csv", "--gold_file", folder / "gold.csv", "--baselines", "none"]
    return [str(word) for word in [*words, "--output_dir", folder / "out", *more]]


def read(words):
    job = read_command_line(words)
    check_input_files(job)
    return load_splits(job)


@pytest.fixture(scope="session")
def judged(make_shared):
    """The folder of a finished job with a judge from elsewhere, the gold labels, and what the command printed."""

    def make(folder):
        gold = write_tweets(folder)
        result = train_here(command(folder))
        assert result.code == 0, result.err
        return folder, gold, result

    return make_shared("judged", make)


@pytest.mark.slow
def test_a_judge_from_elsewhere_votes_is_scored_and_appraised_like_the_rest(judged):
    folder, gold, result = judged
    scores = json.loads((folder / "out" / "scores.json").read_text())
    assert set(scores) == {"words", "judge", "final vote"}
    for part in ("out_of_fold", "test"):
        assert scores["final vote"][part]["f1"] > scores["words"][part]["f1"]
    appraisal = json.loads((folder / "out" / "appraisal.json").read_text())
    assert appraisal["without"]["judge"] < appraisal["score"]["f1"]
    assert "suspicious" not in appraisal
    assert "SUSPICIOUS" not in result.out
    table = pd.read_parquet(folder / "out" / "out_of_fold.parquet")
    judge = pd.read_csv(folder / "judge.csv").set_index("id")["p_side_effect"]
    np.testing.assert_allclose(table["judge p_side_effect"], judge[table["id"].astype(int)], atol=1e-6)
    assert table["gold"].tolist() == [LABELS[label] for label in gold[:N_LABELLED]]
    assert not (folder / "out" / "judge" / "refit").exists()
    runs = sorted(path.parent.name for path in (folder / "out" / "judge").glob("*/DONE"))
    assert runs == ["fold-0", "fold-1", "fold-2"]
    about = json.loads((folder / "out" / "plan.json").read_text())
    assert about["outside"]["judge"]["test"]["file"] == "judge_test.parquet"
    assert str(folder) not in json.dumps(about["recipe"])


@pytest.mark.slow
def test_a_finished_job_with_a_judge_is_seen_through_as_the_same_job(judged, call):
    folder, _, _ = judged
    result = call(main, *command(folder), "--check")
    assert result.code == 0, result.err
    assert "Nothing was trained" in result.out


@pytest.mark.slow
def test_new_tweets_get_a_vote_that_was_fitted_without_the_judge(judged, tmp_path, call):
    folder, _, _ = judged
    content = json.loads((folder / "out" / "ensemble.json").read_text())
    assert content["rule"]["members"] == ["words", "judge"]
    assert content["with_models"]["rule"]["members"] == ["words"]
    result = call(predict.main, folder / "out", folder / "test.csv", "--output", tmp_path / "labels.csv")
    assert result.code == 0, result.err
    assert "judge came from elsewhere as predictions, without a model" in result.err
    assert f"{content['with_models']['out_of_fold']['f1']:.3f} out of fold, not" in result.err
    with pytest.warns(UserWarning, match="judge came from elsewhere"):
        loaded = smm4h.load(str(folder / "out"))
    words = read_predictions(folder / "out" / "words" / "refit" / "test.parquet")
    assert len(loaded.predict(pd.read_csv(folder / "test.csv")["text"].tolist())) == len(words.ids)
    result = call(publish.main, folder / "out", "--to_folder", tmp_path / "published")
    assert result.code == 0, result.err
    config = json.loads((tmp_path / "published" / "config.json").read_text())
    assert [member["name"] for member in config["members"]] == ["words"]
    card = (tmp_path / "published" / "README.md").read_text()
    assert "judge: predictions of models from elsewhere" in card
    result = call(predict.main, tmp_path / "published", folder / "test.csv", "--output", tmp_path / "again.csv")
    assert result.code == 0, result.err
    assert (tmp_path / "again.csv").read_text() == (tmp_path / "labels.csv").read_text()


@pytest.mark.slow
def test_a_job_of_predictions_alone_votes_and_says_that_it_has_no_model_and_knows_its_files_by_content(tmp_path, call):
    write_tweets(tmp_path)
    alone = RECIPE.replace("  words: {classifier: tfidf-logistic}\n", "")
    words = command(tmp_path, alone)
    result = call(main, *words, "--predict_with", "refits")
    assert result.code == 2
    assert "--predict_with refits: member judge has none" in result.err
    result = call(main, *words)
    assert result.code == 0, result.err
    submission = list((tmp_path / "out" / "submission").glob("*.zip"))
    assert len(submission) == 1
    result = call(predict.main, tmp_path / "out", tmp_path / "test.csv", "--output", tmp_path / "labels.csv")
    assert result.code == 2
    assert "judge came from elsewhere as predictions, without a model that could read new tweets" in result.err
    shutil.copy(tmp_path / "judge.csv", tmp_path / "moved.csv")
    assert call(main, *command(tmp_path, alone, out_of_fold="moved.csv")).code == 0
    changed = pd.read_csv(tmp_path / "judge.csv").rename(columns={"p_none": "p_side_effect", "p_side_effect": "p_none"})
    changed.to_csv(tmp_path / "moved.csv", index=False)
    result = call(main, *command(tmp_path, alone, out_of_fold="moved.csv"))
    assert result.code == 2
    assert "was made with another recipe: recipe members judge predictions" in result.err


def copy_of_the_gold(table, gold):
    table["p_side_effect"] = 0.1 + 0.8 * gold
    table["p_none"] = 1 - table["p_side_effect"]
    return table


def test_a_copy_of_the_gold_labels_is_named_before_training(tmp_path):
    gold = write_tweets(tmp_path)
    table = pd.read_csv(tmp_path / "judge.csv").sort_values("id")
    copy_of_the_gold(table, gold[:N_LABELLED]).to_csv(tmp_path / "copy.csv", index=False)
    findings = read(command(tmp_path, out_of_fold="copy.csv")).findings
    (named,) = [finding.what for finding in findings if "SUSPICIOUS" in finding.what]
    assert "get their gold label from member judge" in named
    assert not [finding for finding in read(command(tmp_path)).findings if "SUSPICIOUS" in finding.what]


@pytest.mark.slow
def test_a_copy_of_nearly_all_gold_labels_is_named_by_its_scores(tmp_path, call):
    gold = write_tweets(tmp_path)
    is_copied = np.random.default_rng(3).random(N_LABELLED) < 0.97
    table = pd.read_csv(tmp_path / "judge.csv").sort_values("id")
    copy = copy_of_the_gold(table.copy(), np.where(is_copied, gold[:N_LABELLED], 1 - gold[:N_LABELLED]))
    copy.to_csv(tmp_path / "copy.csv", index=False)
    result = call(main, *command(tmp_path, out_of_fold="copy.csv"))
    assert result.code == 0, result.err
    assert "SUSPICIOUS: judge: its predictions from elsewhere" in " ".join(result.out.split())
    appraisal = json.loads((tmp_path / "out" / "appraisal.json").read_text())
    assert "far better out of fold than on the test tweets" in appraisal["suspicious"]["judge"]
    assert "Suspicious: judge" in (tmp_path / "out" / "report.html").read_text()


def without_a_row(table):
    return table[:-1]


def with_a_row_twice(table):
    return pd.concat([table, table[:1]])


def with_labels_only(table):
    return pd.DataFrame({"id": table["id"], "label": np.where(table["p_none"] > 0.5, *LABELS)})


def certain(table):
    return table.assign(p_none=table["p_none"].round(), p_side_effect=table["p_side_effect"].round())


def no_distribution(table):
    return table.assign(p_none=0.9, p_side_effect=0.9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_a_row, "odd.csv lacks tweet .* the same tweets are needed"),
        (with_a_row_twice, "odd.csv, line 122: this tweet stands there a second time"),
        (with_labels_only, "odd.csv: a member needs a probability of each label; .* p_none, p_side_effect"),
        (certain, "odd.csv: all probabilities are 0 or 1, as in a copy of the gold labels"),
        (no_distribution, "odd.csv, line 2: the probabilities of the labels do not sum to 1"),
        (
            lambda table: table.rename(columns={"p_none": "p_no"}),
            "odd.csv: probabilities of no, side_effect where none, side_effect are the labels",
        ),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_predictions_that_show_a_leak_or_are_none_are_refused(tmp_path, change, message):
    write_tweets(tmp_path)
    change(pd.read_csv(tmp_path / "judge.csv")).to_csv(tmp_path / "odd.csv", index=False)
    with pytest.raises(InputError, match=message):
        read(command(tmp_path, out_of_fold="odd.csv"))


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (RECIPE.replace(", test: TEST", ""), "member judge: its predictions of the test tweets are missing"),
        (RECIPE.replace("out_of_fold: OUT, ", ""), "line 5, member judge: predictions need out_of_fold"),
        (RECIPE.replace("out_of_fold", "out_of_folds"), "no part out_of_folds .did you mean out_of_fold"),
        (RECIPE.replace("{out_of_fold: OUT, test: TEST}", "OUT"), "write {out_of_fold: FILE, test: FILE}"),
        (RECIPE.replace("judge: {", "judge: {pseudo_labels: true, "), "write pseudo_labels: false"),
        (RECIPE.replace("vote: soft", "predictions: {out_of_fold: OUT}"), "write them into its row"),
        (RECIPE.replace("OUT", "missing.csv"), "missing.csv"),
    ],
)
def test_a_slip_in_the_row_is_answered(tmp_path, recipe, message):
    write_tweets(tmp_path)
    with pytest.raises(InputError, match=message):
        read(command(tmp_path, recipe))


def test_what_predict_writes_is_taken_for_two_labels_and_rows_tell_repeated_ids_apart(tmp_path):
    write_tweets(tmp_path)
    expected = read(command(tmp_path)).outside["judge"]
    judge = pd.read_csv(tmp_path / "judge.csv")
    probabilities = judge[["p_none", "p_side_effect"]].to_numpy()
    chosen = probabilities.argmax(axis=1)
    predicted = {
        "id": judge["id"],
        "label": [LABELS[label] for label in chosen],
        "probability": probabilities.max(axis=1),
    }
    pd.DataFrame(predicted).to_csv(tmp_path / "predicted.csv", index=False)
    found = read(command(tmp_path, out_of_fold="predicted.csv")).outside["judge"]
    np.testing.assert_allclose(found["out_of_fold"], expected["out_of_fold"], atol=1e-6)
    for name in ("train.csv", "judge.csv"):
        table = pd.read_csv(tmp_path / name)
        table["row"] = table["id"] - 1000
        table["id"] = table["id"].where(table["id"] > 1003, 1003)
        table.to_csv(tmp_path / name, index=False)
    found = read(command(tmp_path)).outside["judge"]
    np.testing.assert_array_equal(found["out_of_fold"], expected["out_of_fold"])


PSEUDO = (
    RECIPE.replace("refit: true", "pseudo_teachers: [words, judge], UNSEEN")
    + "  learner: {classifier: tfidf-svm, pseudo_labels: true}\n"
)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["vote", "unseen"])
def test_a_judge_teaches_by_vote_and_never_as_one_that_has_not_seen_the_held_out_tweets(tmp_path, call, way):
    write_tweets(tmp_path)
    result = call(main, *command(tmp_path, PSEUDO.replace("UNSEEN", f"pseudo_from: {way}")))
    assert result.code == 0, result.err
    counts = json.loads((tmp_path / "out" / "pseudo_labels" / "seed-42" / "counts.json").read_text())
    teachers = {name.split("/")[0] for fold in counts.values() for name in fold["teachers"]}
    assert teachers == ({"words", "judge"} if way == "vote" else {"words"})


def test_only_judges_from_elsewhere_are_no_unseen_teachers(tmp_path):
    write_tweets(tmp_path)
    recipe = PSEUDO.replace("[words, judge], UNSEEN", "[judge], pseudo_from: unseen")
    with pytest.raises(InputError, match="every teacher has seen tweets that its folds hold out"):
        read(command(tmp_path, recipe))
