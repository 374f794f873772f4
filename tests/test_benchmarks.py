"""The benchmarks run from end to end and print all of their rows."""

import hashlib
import io
import json
import re
import runpy
import sys
import tarfile

import pytest
from conftest import INVENTED, ROOT, TASK5, python

from smm4h.config.task_file import read_task
from smm4h.data.dataset import read_tweets
from smm4h.data.outputs.label_files import read_labels

pytestmark = pytest.mark.slow


def test_the_speed_benchmark_measures_all_contenders_phases_and_predictions():
    result = python("benchmarks/speed.py", "--shape", "tiny", "--tweets", 240, "--repeats", 1, "--no_start")
    assert result.code == 0, result.err
    for contender in ("the authors' settings", "stock Trainer", "ours, --no_packed", "ours "):
        assert re.search(rf"^{contender}.* \d+\.\d+ x +\d+ +\d+ %$", result.out, re.MULTILINE), result.out
    for phase in ("read", "tokenise", "forward", "backward", "optimizer", "evaluate"):
        assert re.search(rf"^{phase} +\d+\.\d+", result.out, re.MULTILINE), result.out
    assert "x the time of 2 x weights x word pieces" in result.out


def test_the_benchmark_of_a_gpu_runs_its_parts_and_finds_the_same_bytes(tmp_path):
    parts = ["ceilings", "steps", "bytes", "streams", "job", "predict", "joint"]  # `side_by_side` does as `streams`
    words = ["--tiny", "--minutes", 60, "--parts", *parts, "--output", tmp_path / "found.json"]
    result = python("benchmarks/gpu.py", *words)
    assert result.code == 0, result.err
    found = json.loads((tmp_path / "found.json").read_text())
    assert list(found) == ["machine", *parts]
    assert not [part for part in found if "failed" in found[part]], found
    assert all(row["tweets/s"] > 0 for row in found["steps"]["rows"].values())
    assert (found["bytes"]["files"], found["bytes"]["twice"], found["bytes"]["killed and resumed"]) == (2, True, True)
    assert found["streams"]["rows"]["1 x 2"]["bytes of the first"]
    assert (found["job"]["runs"], found["job"]["zip"]) == (2, True)
    assert re.search(r"^predict +tweets/s +\d", result.out, re.MULTILINE), result.out


def test_the_size_benchmark_measures_all_parts_and_kills_and_resumes_a_prediction():
    result = python("benchmarks/size.py", "--tweets", 6_000)
    assert result.code == 0, result.err
    for part in ("read", "vote", "vote_probabilities", "predict"):
        row = rf"^6,000 tweets  {part} +\d+\.\d s  \d\.\d GB at most$"
        assert re.search(row, result.out, re.MULTILINE), result.out
    assert re.search(r"^killed after [12] of 3 blocks; most GB in each fifth", result.err, re.MULTILINE), result.err


def test_the_benchmark_of_labelling_prints_both_arms_and_their_difference(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    words = ["--tiny", "--task", str(TASK5), "--data_dir", str(INVENTED)]
    monkeypatch.setattr(sys, "argv", ["label_next.py", *words])
    runpy.run_path(str(ROOT / "benchmarks" / "label_next.py"), run_name="__main__")
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[0] for row in rows] == ["| the 40 tweets", "| gain", "| random", "| gain against random"]
    assert all(len(row.split(" | ")) == 4 for row in rows)


def test_the_benchmark_of_expected_scores_prints_a_row_a_draw_and_goes_on(tmp_path):
    words = ["--task", TASK5, "--data_dir", INVENTED, "--tweets", 200, "--test_tweets", 60, "--output_dir", tmp_path]
    result = python("benchmarks/expected.py", *words, "--draws", 1)
    assert result.code == 0, result.err
    interval = r"\d\.\d{3} \([+-]\d\.\d{3}; \d\.\d{3} to \d\.\d{3}, wide \d\.\d{3}, holds \d of 1\)"
    for name in ("draw 0", "all draws"):
        row = rf"^{name}: test \d\.\d{{3}}; expected {interval}; out of fold {interval}$"
        assert re.search(row, result.out, re.MULTILINE), result.out
    assert (tmp_path / "0.npz").exists()


def test_the_benchmark_of_tricks_prints_a_row_a_way_and_goes_on(tiny_encoder, tmp_path):
    words = ["--task", TASK5, "--data_dir", INVENTED, "--tweets", 60, "--test_tweets", 40, "--output_dir", tmp_path]
    words += ["--model_name_or_path", tiny_encoder, "--draws", 1, "--seeds", 1, 2, "--min_steps", 1]
    results = [python("benchmarks/tricks.py", *words) for _ in range(2)]
    for result in results:
        assert result.code == 0, result.err
    rows = [line.split(" | ") for line in results[0].out.splitlines() if line.startswith("| ") and " x |" in line]
    assert [row[0] for row in rows[:3]] == [
        "| as the recipe does",
        "| moving average of the weights",
        "| twice the epochs",
    ]
    assert len({row[1] for row in rows}) > len(rows) / 2  # they are different ways
    assert results[0].out == results[1].out
    assert len(list((tmp_path / "1").glob("*.npz"))) == 14


def archive_of(texts: dict[str, list[str]]) -> bytes:
    """Return an archive in an archive, as the package of the other corpora has its texts."""

    def packed(files: dict[str, bytes]) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            for name, content in files.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
        return buffer.getvalue()

    inner = packed({name: "\r\n".join(lines).encode() for name, lines in texts.items()})
    return packed({"vaderSentiment-2.5/additional_resources/hutto_ICWSM_2014.tar.gz": inner})


@pytest.mark.parametrize(("task", "rare"), [("task2_en", {"1": [1, 2, 3, 4]}), ("task5", {"1": [1, 2], "2": [3, 4]})])
def test_the_most_negative_texts_of_other_corpora_get_the_rare_labels(task, rare, tmp_path, monkeypatch, call):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import other_corpora

    ratings = [(7 * n) % 40 - 20 for n in range(40)]  # each once; the lowest are -20, -19, ...
    lines = {"tweets": "{n}", "amazonReviewSnippets": "{n}_1"}
    content = archive_of(
        {
            f"hutto_ICWSM_2014/{name}_GroundTruth.txt": [
                f'{number.format(n=n)}\t{rating}\trated "{rating}' for n, rating in enumerate(ratings)
            ]
            for name, number in lines.items()
        }
    )
    archive = tmp_path / "archive.tar.gz"
    archive.write_bytes(content)
    words = [archive, "--task", ROOT / "tasks" / f"{task}.yaml", "--output_dir", tmp_path / "out"]
    refused = call(other_corpora.main, *words)
    assert (refused.code, "not the source distribution" in refused.err) == (2, True)
    monkeypatch.setattr(other_corpora, "SHA256", hashlib.sha256(content).hexdigest())
    result = call(other_corpora.main, *words)
    assert result.code == 0, result.err
    task = read_task(ROOT / "tasks" / f"{task}.yaml")
    for corpus in ("tweets", "reviews"):
        files = {part: tmp_path / "out" / corpus / files[0].name for part, files in task.files.items()}
        tweets, _ = read_tweets([files["training"], files["validation"]], task, labelled=True)
        test, _ = read_tweets([files["test"]], task, labelled=False)
        assert (len(tweets), len(test)) == (30, 10)
        labels = [task.labels[label] for label in tweets["label"]]
        labels += [task.labels[n] for n in read_labels(files["gold"]).indices(task.labels)]
        found = {label: [] for label in task.positive}
        for text, label in zip([*tweets["text"], *test["text"]], labels, strict=True):
            if label in found:
                found[label].append(int(text.split('"')[1]) + 21)
        assert {label: sorted(numbers) for label, numbers in found.items()} == rare
