"""A task with several subtasks by the front door: one command, a job for each subtask, one submission that scores."""

import csv
import io
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import CommandResult
from conftest import train as train_apart

import smm4h
from smm4h.cli import distill, predict, publish, report, train, vote
from smm4h.cli.subtasks.command import commands_of, subtask_jobs_of
from smm4h.cli.subtasks.train import train_subtasks
from smm4h.config.plans.plan import read_plan
from smm4h.parallel.environment import LaunchEnvironment
from smm4h.utils.errors import InputError

TASK = """name: stages
columns: {id: patient_filename, text: text}
measure: [macro_f1, f1]
files: {training: texts.csv, test: test.csv, gold: gold.csv}
subtasks:
  T: {labels: [T1, T2, T3], columns: {label: T_label}, files: {training_labels: t.csv}}
  N: {labels: [N0, N1], columns: {label: N_label}, files: {training_labels: n.csv}}
submission: {file: answer.csv, columns: {patient_filename: id, T_label: T, N_label: N}, zip: false}
"""
RECIPE = """
shared: {classifier: tfidf-logistic, n_folds: 2, threads_per_worker: 1, baselines: none, use_cpu: true}
members: {counts: {fold_seed: 42}}
"""
T_WORDS, N_WORDS = ("small", "middling", "large"), ("clean", "spread")
N_TEST = 18


def report_of(i: int) -> tuple[str, str, str, str]:
    """Return id, text and both labels of a report, whose words tell the labels."""
    t, n = i % 3, i % 5 % 2
    text = f"a {T_WORDS[t]} {T_WORDS[t]} growth, number {i % 7}, nodes {N_WORDS[n]} {N_WORDS[n]}"
    return f"TCGA-{i:03}.PDF", text, f"T{t + 1}", f"N{n}"


def write_csv(path: Path, header: str, rows) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header.split(","), *rows])


def write_reports(folder: Path) -> None:
    """Write 60 labelled reports, whose labels lie in two files, and 18 test reports; two of the latter mislead."""
    rows = [report_of(i) for i in range(60)]
    write_csv(folder / "texts.csv", "patient_filename,text", [row[:2] for row in rows])
    write_csv(folder / "t.csv", "patient_filename,T_label", [(i, t) for i, _, t, _ in rows])
    write_csv(folder / "n.csv", "patient_filename,N_label", [(i, n) for i, _, _, n in reversed(rows[1:])])
    tests = [report_of(i) for i in range(100, 100 + N_TEST)]
    write_csv(folder / "test.csv", "patient_filename,text", [row[:2] for row in tests])
    gold = [[i, {"T1": "T2", "T2": "T1"}.get(t, t) if i in MISLEADING else t, n] for i, _, t, n in tests]
    write_csv(folder / "gold.csv", "patient_filename,T_label,N_label", gold)
    (folder / "task.yaml").write_text(TASK, encoding="utf-8")
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")


MISLEADING = ("TCGA-102.PDF", "TCGA-103.PDF")  # gold T labels are others than their words say


@dataclass
class SubtaskJob:
    folder: Path  # of the files
    words: list[str]
    result: CommandResult

    @property
    def out(self) -> Path:
        return self.folder / "out"


@pytest.fixture(scope="session")
def subtask_job(make_shared) -> SubtaskJob:
    def make(folder: Path) -> SubtaskJob:
        write_reports(folder)
        words = [folder / "recipe.yaml", "--task", folder / "task.yaml", "--data_dir", folder, "--output_dir"]
        words = [str(word) for word in (*words, folder / "out")]
        return SubtaskJob(folder, words, train_apart(words))

    return make_shared("subtasks", make)


@pytest.fixture
def copied(subtask_job, tmp_path) -> SubtaskJob:
    shutil.copytree(subtask_job.out, tmp_path / "out")
    words = [*subtask_job.words, "--output_dir", str(tmp_path / "out")]
    return SubtaskJob(tmp_path, words, subtask_job.result)


def f1_of(label: str, gold: dict[str, str], predicted: dict[str, str]) -> float:
    hits = sum(gold[i] == label == predicted[i] for i in gold)
    return 2 * hits / (list(gold.values()).count(label) + list(predicted.values()).count(label))


def official_scores(text: str, gold_text: str) -> dict[str, float]:
    """Return the macro F1 of both columns, as a scorer would that joins two CSV files by patient_filename."""
    answer, gold = (list(csv.DictReader(io.StringIO(content))) for content in (text, gold_text))
    assert set(answer[0]) == {"patient_filename", "T_label", "N_label"}
    assert len(answer) == len({row["patient_filename"] for row in answer}) == len(gold)
    scores = {}
    for column in ("T_label", "N_label"):
        by_id = [{row["patient_filename"]: row[column] for row in rows} for rows in (gold, answer)]
        labels = sorted(set(by_id[0].values()))
        scores[column] = sum(f1_of(label, *by_id) for label in labels) / len(labels)
    return scores


@pytest.mark.slow
def test_one_command_writes_one_submission_with_a_column_for_each_subtask(subtask_job):
    assert subtask_job.result.code == 0, subtask_job.result.err + subtask_job.result.out
    text = (subtask_job.out / "submission" / "answer.csv").read_text(encoding="utf-8")
    assert text.splitlines()[0] == "patient_filename,T_label,N_label"
    assert [line.split(",")[0] for line in text.splitlines()[1:]] == [f"TCGA-{i}.PDF" for i in range(100, 118)]
    scores = official_scores(text, (subtask_job.folder / "gold.csv").read_text(encoding="utf-8"))
    assert scores["N_label"] == 1.0
    assert scores["T_label"] == pytest.approx((5 / 6 + 5 / 6 + 1) / 3)  # one of six swapped between T1 and T2
    stored = json.loads((subtask_job.out / "scores.json").read_text())
    assert stored["subtasks"]["T"]["test"]["macro_f1"] == pytest.approx(scores["T_label"])
    assert stored["mean"]["test"] == pytest.approx(sum(scores.values()) / 2)


@pytest.mark.slow
def test_the_table_shows_each_subtask_and_the_mean_and_the_next_steps_name_the_joint_files(subtask_job):
    end = subtask_job.result.out.rpartition("stages: final votes")[2]
    rows = {line.split()[0]: line.split() for line in end.splitlines() if line.split()[:1] in (["T"], ["N"], ["mean"])}
    assert rows["T"][1] == "macro_f1"
    assert float(rows["T"][5]) == pytest.approx((5 / 6 + 5 / 6 + 1) / 3, abs=5e-4)
    assert float(rows["T"][7]) == pytest.approx(16 / 18, abs=5e-4)  # the further measure, f1 over all labels
    assert float(rows["mean"][4]) == pytest.approx((16 / 18 + 1) / 2, abs=5e-4)
    submitted = [line.split()[1] for line in subtask_job.result.out.splitlines() if line.startswith("submit")]
    assert submitted == [str(subtask_job.out / "submission" / "answer.csv")]


def test_nothing_is_trained_before_the_input_of_all_subtasks_is_checked(tmp_path):
    """The last subtask's labels are wrong; trained one after the other, the first one would be done by then."""
    write_reports(tmp_path)
    right = (tmp_path / "n.csv").read_text(encoding="utf-8")
    (tmp_path / "n.csv").write_text(right.replace("N1", "N7", 1), encoding="utf-8")
    words = [tmp_path / "recipe.yaml", "--task", tmp_path / "task.yaml", "--data_dir", tmp_path]
    words = [str(word) for word in (*words, "--output_dir", tmp_path / "out")]
    jobs = subtask_jobs_of(words)
    with pytest.raises(InputError, match=r"n\.csv, line \d+: the label is none of N0, N1, but N7 once"):
        train_subtasks(jobs, commands_of(jobs, words), LaunchEnvironment.detect())
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_reports_without_a_label_of_one_subtask_are_left_out_of_this_subtask_only(subtask_job):
    assert "stages-T: 60 labelled tweets" in subtask_job.result.out
    assert "stages-N: 59 labelled tweets" in subtask_job.result.out


@pytest.mark.slow
def test_where_the_job_of_one_subtask_is_needed_the_whole_is_refused(subtask_job, call, tmp_path):
    out = subtask_job.out
    commands = {
        vote.main: ("--output", tmp_path / "x.tsv"),
        report.main: (),
        publish.main: ("--to_folder", tmp_path / "published"),
        distill.main: ("--model_name_or_path", "nothing", "--use_cpu"),
    }
    for main, more in commands.items():
        result = call(main, out, *more)
        assert result.code == 2
        assert f"holds a job for each subtask, and this needs one of them; name {out / 'T'}, {out / 'N'}" in result.err
    with pytest.raises(InputError, match="holds a job for each subtask"):
        smm4h.load(str(out))
    result = call(vote.main, out / "T", "--output", tmp_path / "t.tsv", "--gold", subtask_job.folder / "gold.csv")
    assert result.code == 0, result.err
    assert read_plan(out / "N")[1].labels == ["N0", "N1"]


@pytest.mark.slow
def test_list_verify_and_check_work_on_the_whole(subtask_job, copied, call):
    result = call(train.main, "--list", "--output_dir", subtask_job.out)
    assert result.out.count("2 done, 0 running") == 2
    assert call(train.main, "--verify", "--output_dir", subtask_job.out).code == 0
    (copied.out / "submission" / "answer.csv").write_text("patient_filename,T_label,N_label\n")
    damaged = call(train.main, "--verify", "--output_dir", copied.out)
    assert damaged.code == 1
    assert "answer.csv" in damaged.out
    assert "subtask T" not in damaged.err
    result = call(train.main, *subtask_job.words, "--check")
    assert result.code == 0, result.err
    assert result.out.count("2 are done already") == 2
    assert result.out.count("Nothing was trained") == 1


@pytest.mark.slow
def test_a_rule_that_is_saved_for_one_subtask_changes_the_joint_submission(copied, call):
    result = call(vote.main, copied.out / "N", "--save", "--decision", "N1: 1000000, N0: 1e-6")
    assert result.code == 0, result.err
    rows = list(csv.DictReader((copied.out / "submission" / "answer.csv").open(encoding="utf-8")))
    assert {row["N_label"] for row in rows} == {"N1"}
    assert {row["T_label"] for row in rows} == {"T1", "T2", "T3"}
    assert call(train.main, "--verify", "--output_dir", copied.out).code == 0


def test_what_one_subtask_alone_can_have_is_refused(tmp_path, call):
    write_reports(tmp_path)
    words = [tmp_path / "recipe.yaml", "--task", tmp_path / "task.yaml", "--data_dir", tmp_path]
    result = call(train.main, *words, "--output_dir", tmp_path / "out", "--parallel", "data")
    assert result.code == 2
    assert f"give a command for each, such as --task {tmp_path / 'task.yaml'}:T" in result.err
    other = tmp_path / "other_test.csv"
    write_csv(other, "patient_filename,text", [report_of(i)[:2] for i in range(5)])
    text = TASK.replace("{training_labels: n.csv}", "{training_labels: n.csv, test: other_test.csv}")
    (tmp_path / "task.yaml").write_text(text.replace(", gold: gold.csv", ""))
    result = call(train.main, *words, "--output_dir", tmp_path / "out", "--check")
    assert result.code == 2
    assert "subtask N has other test tweets than subtask T" in result.err
    assert not (tmp_path / "out").exists()


def test_the_name_of_the_subtask_stands_for_itself_in_the_command(tmp_path, call):
    write_reports(tmp_path)
    (tmp_path / "task.yaml").write_text("\n".join(line for line in TASK.splitlines() if "files: {tr" not in line[:12]))
    text = (tmp_path / "task.yaml").read_text().replace(", files: {training_labels: t.csv}", "")
    (tmp_path / "task.yaml").write_text(text.replace(", files: {training_labels: n.csv}", ""))
    for name in "TN":
        (tmp_path / f"{name.lower()}.csv").rename(tmp_path / f"labels_{name}.csv")
    words = [tmp_path / "recipe.yaml", "--task", tmp_path / "task.yaml", "--train_file", tmp_path / "texts.csv"]
    words += ["--train_labels_file", tmp_path / "labels_{subtask}.csv", "--output_dir", tmp_path / "out", "--check"]
    result = call(train.main, *words)
    assert result.code == 0, result.err
    assert "59" in result.out


@pytest.mark.slow
def test_folders_of_one_subtask_and_of_several_are_not_mixed(copied, tmp_path, call):
    words = [*copied.words, "--task", f"{copied.words[2]}:T", "--output_dir", str(copied.out), "--list"]
    result = call(train.main, *words)
    assert result.code == 2
    assert "holds a job for each subtask" in result.err
    shutil.copytree(copied.out / "T", tmp_path / "one")
    result = call(train.main, *copied.words, "--output_dir", tmp_path / "one", "--check")
    assert result.code == 2
    assert "holds a job with one subtask" in result.err


@pytest.mark.slow
def test_new_posts_get_the_labels_of_all_subtasks_in_the_shape_of_the_submission(subtask_job, tmp_path, call):
    words = [subtask_job.out, subtask_job.folder / "test.csv", "--use_cpu"]
    result = call(predict.main, *words, "--output", tmp_path / "answer.csv", "--columns", "label")
    assert result.code == 0, result.err
    submitted = subtask_job.out / "submission" / "answer.csv"
    assert (tmp_path / "answer.csv").read_bytes() == submitted.read_bytes()
    result = call(predict.main, *words, "--output", tmp_path / "all.csv", "--columns", "label,probability")
    assert result.code == 0, result.err
    header = (tmp_path / "all.csv").read_text(encoding="utf-8").splitlines()[0]
    assert header == "patient_filename,T_label,T_probability,N_label,N_probability"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all.csv", "answer.csv"]


@pytest.mark.slow
def test_a_subtask_that_was_predicted_before_a_failure_is_not_predicted_again(copied, subtask_job, tmp_path, call):
    t_model, n_model = (next((copied.out / name / "counts").rglob("model/*.safetensors")) for name in "TN")
    words = [copied.out, subtask_job.folder / "test.csv", "--use_cpu", "--output", tmp_path / "labels.csv"]
    whole = n_model.read_bytes()
    n_model.write_bytes(b"damaged")
    result = call(predict.main, *words)
    assert result.code == 2
    assert str(n_model) in result.err
    n_model.write_bytes(whole)
    t_model.write_bytes(b"damaged")  # what is predicted again would be refused
    result = call(predict.main, *words)
    assert result.code == 0, result.err
    assert len((tmp_path / "labels.csv").read_text(encoding="utf-8").splitlines()) == N_TEST + 1
