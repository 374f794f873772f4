"""`label-next` on a finished job, and the way back of its answers into training."""

import re
import shutil

import pandas as pd
import pytest
from conftest import INVENTED, RECIPE, TASK5, job_words

from smm4h.cli import train, vote
from smm4h.cli.label_next import main
from smm4h.config.plans.plan import read_plan
from smm4h.data.streaming import read_blocks

POOL = INVENTED / "task5_test_participant.tsv"
TRAINING = INVENTED / "task5_training.tsv"


@pytest.fixture(scope="module")
def planted_pool(tmp_path_factory):
    """The 120 test tweets, twins and near copies of the first one, a labelled one, and a link."""
    path = tmp_path_factory.mktemp("pool") / "pool.tsv"
    lines = POOL.read_bytes().decode("cp1252", "replace").rstrip("\n").split("\n")
    first, labelled = lines[1].split("\t"), TRAINING.read_bytes().decode("cp1252", "replace").split("\n")[1].split("\t")
    text = labelled[2] if len(labelled) > 2 else labelled[-1]
    long = "a planted tweet of a dozen words and more that says nothing at all of it"
    more = [first[2].upper() + " https://t.co/zzz", long, long.replace("dozen", "few"), text, "https://t.co/nothing"]
    lines += ["\t".join([str(100 + i), "u", tweet, *first[3:]]) for i, tweet in enumerate(more)]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def words(tuned_job, planted_pool, tmp_path) -> list:
    return [tuned_job.folder, planted_pool, "--output", tmp_path / "next.csv"]


def test_new_tweets_are_chosen_without_twins_near_copies_and_links(words, call, tmp_path):
    result = call(main, *words, "--n", 200, "--random", 0)
    assert result.code == 0, result.err
    table = pd.read_csv(tmp_path / "next.csv", dtype=str)
    assert {"103", "104", "100"}.isdisjoint(table["tweet_id"])
    assert len({"101", "102"} & set(table["tweet_id"])) == 1
    assert list(table)[:3] == ["tweet_id", "tweet", "user_id"]
    assert (table["chosen_by"] == "gain").all()
    assert table["gain"].astype(float).is_monotonic_decreasing
    assert "suggestion" not in table
    assert "near cop" in result.out


def test_blocks_formats_and_a_rerun_choose_the_same_tweets(words, call, tmp_path):
    tables = []
    for output, *flags in (("a.csv",), ("b.jsonl", "--block", 7), ("c.tsv", "--suggest"), ("d.parquet",)):
        result = call(main, *words[:2], "--output", tmp_path / output, "--n", 30, *flags)
        assert result.code == 0, result.err
        read = {".csv": pd.read_csv, ".tsv": lambda path: pd.read_csv(path, sep="\t", quoting=3)}
        read |= {".jsonl": lambda path: pd.read_json(path, lines=True, dtype=False), ".parquet": pd.read_parquet}
        tables.append(read["." + output.split(".")[1]](tmp_path / output))
    assert len({tuple(table["tweet_id"].astype(str)) for table in tables}) == 1
    assert len({tuple(table["chosen_by"]) for table in tables}) == 1
    assert (tables[0]["chosen_by"] == "random").sum() == 3
    assert set(tables[2]["suggestion"].astype(str)) <= {"1", "2", "3"}
    assert tables[2]["suggestion_score"].between(0, 1).all()


def test_a_saved_target_moves_the_cut_and_not_the_choice(tuned_job, words, call, tmp_path):
    """Tweets at the cut of a high recall are next to never rare: their labels would tell nothing."""
    shutil.copytree(tuned_job.folder, tmp_path / "out")
    assert call(vote.main, tmp_path / "out", "--decision", "flagged<=0.9", "--save").code == 0
    tables = {}
    for name, folder in (("tuned", tuned_job.folder), ("target", tmp_path / "out")):
        result = call(main, folder, words[1], "--output", tmp_path / f"{name}.csv", "--n", 20, "--suggest")
        assert result.code == 0, result.err
        tables[name] = pd.read_csv(tmp_path / f"{name}.csv", dtype=str)
    assert "note: chosen by closeness to the decision tuned for f1, not to flagged<=0.9" in result.out
    assert tables["target"]["tweet_id"].tolist() == tables["tuned"]["tweet_id"].tolist()
    assert tables["target"]["margin"].tolist() == tables["tuned"]["margin"].tolist()
    assert (tables["target"]["suggestion"] == "3").sum() < (tables["tuned"]["suggestion"] == "3").sum()


CELLS = ("@ann =1", "=1+1 now", "-5 degrees", "'@bob' said", '"=a"', '"=a" b', '"a" =b', "'=odd", "plain =1", "＝wide")


@pytest.mark.parametrize("name", ["n.csv", "n.tsv", "n.csv.gz", "n.jsonl", "n.parquet"])
def test_no_spreadsheet_runs_a_chosen_tweet_or_user_and_both_read_back(tuned_job, call, tmp_path, name):
    """A user who read back as another one would be in two folds."""
    texts = [f"{cell} {' '.join(f'word{number}{n}' for n in range(5))}" for number, cell in enumerate(CELLS)]
    pool = pd.DataFrame({"tweet_id": range(len(CELLS)), "user_id": CELLS, "text": texts})
    pool.astype(str).to_json(tmp_path / "pool.jsonl", orient="records", lines=True)
    words = tuned_job.folder, tmp_path / "pool.jsonl", "--output", tmp_path / name, "--n", len(CELLS), "--random", 0
    result = call(main, *words, "--suggest")
    assert result.code == 0, result.err
    if name in ("n.csv", "n.tsv"):
        table = pd.read_csv(tmp_path / name, sep="," if name == "n.csv" else "\t", dtype=str)
        assert not [
            cell
            for cell in (*table["tweet"], *table["user_id"])
            if re.match("[\"' ]*[=+@＝-]", cell) and not cell.startswith("'")
        ]
    task = read_plan(tuned_job.folder)[1]
    blocks = list(read_blocks([tmp_path / name], task, 3))
    read = {row[0]: row[1:] for block in blocks for row in zip(block.ids, block.users, block.texts, strict=True)}
    assert [read[str(number)] for number in range(len(CELLS))] == list(zip(CELLS, texts, strict=True))


def test_answers_join_the_old_tweets_and_empty_ones_are_left_out_with_a_count(words, call, tmp_path, tiny_encoder):
    assert call(main, *words, "--n", 30, "--blank_label").code == 0
    table = pd.read_csv(tmp_path / "next.csv", dtype=str)
    (label,) = [name for name in table if table[name].isna().all()]
    table[label] = ["2"] * 20 + [None] * 10
    table.to_csv(tmp_path / "next.csv", index=False)
    flags = {
        "task": TASK5,
        "train_file": [TRAINING, tmp_path / "next.csv"],
        "test_file": POOL,
        "max_train_samples": 10_000,
    }
    given = job_words(tiny_encoder, tmp_path / "out", "--check", **flags)
    at = given.index("--data_dir")
    result = call(train.main, *given[:at], *given[at + 2 :])
    assert result.code == 0, result.err
    n_old = len(TRAINING.read_bytes().rstrip(b"\n").split(b"\n")) - 1
    (row,) = (line for line in result.out.splitlines() if line.startswith("all tweets"))
    assert int(row.split()[2]) == n_old + 20
    assert "next.csv: 10 tweets have no label" in result.out.replace("\n", " ")


def test_what_cannot_be_chosen_from_is_refused_in_a_sentence(words, call, tmp_path):
    for flags, message in (
        (("--n", 0), "at least one tweet"),
        (("--random", 2), "a share from 0 to 1"),
        (("--output", "-"), "name a file"),
        (("--output", words[0] / "errors.tsv"), "a job's folder; choose another name"),
    ):
        result = call(main, *words, *flags)
        assert result.code == 2
        assert message in result.err
        assert "Traceback" not in result.err
    only_labelled = tmp_path / "labelled.tsv"
    only_labelled.write_text("tweet_id\tuser_id\ttweet\n1\tu\thttps://t.co/a\n")
    result = call(main, words[0], only_labelled, *words[2:])
    assert result.code == 2
    assert "holds no new tweet" in result.err


def test_a_recipe_behind_several_training_files_is_still_the_recipe():
    from smm4h.config.recipe import read_command_line

    flags = ["--task", TASK5, "--output_dir", "x", "--model_name_or_path", "y", "--train_file", "a.tsv", "b.tsv"]
    for recipe in (RECIPE, "rare"):
        job = read_command_line([*map(str, flags), str(recipe)])
        assert [str(file.path) for file in job.input_files().labelled] == ["a.tsv", "b.tsv"]
