"""What a user may ask of the decision: spellings, and what a task can't have."""

from dataclasses import replace

import pytest

from smm4h.config.decision import (
    Argmax,
    Costs,
    LeastCost,
    Pulled,
    Target,
    Threshold,
    Tuned,
    Weights,
    check_decision,
    parse_decision,
)
from smm4h.config.task_file import read_task
from smm4h.utils.errors import InputError

THREE, RARE = ["1", "2", "3"], ["1", "2"]


@pytest.mark.parametrize(
    ("text", "decision"),
    [
        ("argmax", Argmax()),
        ("tuned", Tuned()),
        ("pulled", Pulled()),
        ("f2", Tuned("f2")),
        ("macro_f1", Tuned("macro_f1")),
        ("recall>=0.9", Target("recall", 0.9)),
        ("recall >= 90%", Target("recall", 0.9)),
        ("precision>0.8", Target("precision", 0.8)),
        ("flagged<=5%", Target("flagged", 0.05)),
        ("costs", LeastCost()),
        ("missed: 20, false: 1", LeastCost(Costs(20, 1))),
        ('{"missed": 20, "false": 1}', LeastCost(Costs(20, 1))),
        ("0.3", Threshold(0.3)),
        ("1: 4, 2: 2", Weights((("1", 4.0), ("2", 2.0)))),
        ("1:4,2:2", Weights((("1", 4.0), ("2", 2.0)))),
        ("no: 1, yes: 7.5", Weights((("no", 1.0), ("yes", 7.5)))),
    ],
)
def test_a_decision_is_read_and_written_so_that_it_is_read_again(text, decision):
    assert parse_decision(text) == decision
    assert parse_decision(str(decision)) == decision


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tund", "did you mean tuned"),
        ("recal>=0.9", "did you mean recall"),
        ("recall<=0.9", "can be bounded from one side only: recall>=0.9"),
        ("flagged>=0.1", "flagged<=0.1"),
        ("recall>=1.2", "lies between 0 and 1, not at 1.2"),
        ("1.3", "a threshold lies between 0 and 1"),
        ("missed: 20", "{missed: 20, false: 1} is expected"),
        ("missed: 0, false: 1", "costs must be above 0"),
        ("1: -4", "weights must be above 0"),
        ("f0", "no decision f0"),
        ("", "no decision"),
    ],
)
def test_another_decision_is_refused_with_the_reason(text, message):
    with pytest.raises(ValueError, match=message):
        parse_decision(text)


@pytest.mark.parametrize(
    ("decision", "labels", "positive", "message"),
    [
        (Threshold(0.3), THREE, RARE, 'two labels; write class weights, such as "1: 4, 2: 4"'),
        (Weights((("4", 2.0),)), THREE, RARE, "there is no label 4"),
        (LeastCost(), THREE, RARE, "the task file has no `costs:`"),
        (Target("recall", 0.9), THREE, THREE, "all labels are positive"),
        (Pulled(), THREE, THREE, "all labels are positive"),
    ],
)
def test_a_decision_that_the_task_can_not_have_is_refused(decision, labels, positive, message):
    with pytest.raises(InputError, match=message):
        check_decision(decision, labels, positive, None)


def test_costs_and_weights_are_completed_by_the_task():
    assert check_decision(LeastCost(), THREE, RARE, Costs(5, 1)) == LeastCost(Costs(5, 1))
    assert dict(check_decision(Weights((("2", 4.0),)), THREE, RARE, None).by_label) == {"1": 1.0, "2": 4.0, "3": 1.0}


TASK = 'name: t\nlabels: ["0", "1"]\npositive: "1"\ncolumns: {text: t, label: l}\n'


def test_a_task_file_has_costs_and_an_f_beta_measure(tmp_path):
    path = tmp_path / "task.yaml"
    path.write_text(TASK + "measure: f2\ncosts: {missed: 20, false: 1}\n")
    task = read_task(path)
    assert task.costs == Costs(20, 1)  # YAML reads `false` as a truth value
    path.write_text(TASK + "fbeta: 2\n")
    assert read_task(path).measure == task.measure == "f2"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("costs: {missed: 20}\n", "line 5: a mapping such as {missed: 20, false: 1}"),
        ("costs: 20\n", "line 5: a mapping such as"),
        ("fbeta: 0\n", "line 5: 0 is no weight of the recall"),
        ("measure: f1\nfbeta: 2\n", "line 6: `measure:` names the metric already"),
        ("measure: f-2\n", "line 5: no measure f-2"),
    ],
)
def test_other_costs_and_measures_are_refused_with_their_line(tmp_path, more, message):
    path = tmp_path / "task.yaml"
    path.write_text(TASK + more)
    with pytest.raises(InputError, match=message):
        read_task(path)


@pytest.mark.parametrize(("measure", "multi_label"), [("macro_f1", False), ("accuracy", False), ("f1", True)])
def test_a_decision_is_pulled_for_f1_of_one_label_a_tweet_only(measure, multi_label):
    task = replace(read_task("tasks/task5.yaml"), measure=measure, multi_label=multi_label)
    with pytest.raises(InputError, match="choose tuned"):
        task.checked_decision(Pulled())
    assert read_task("tasks/task5.yaml").checked_decision(Pulled()) == Pulled()
