"""Tables of scores and of pseudo labels for the terminal."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape

from smm4h.config.task import Task
from smm4h.data.readers.tables import Finding
from smm4h.ensemble.new_votes import Vote
from smm4h.ensemble.scoring import FINAL, group_rows
from smm4h.inference.finished_job import FinishedJob
from smm4h.metrics import OF_ALL_LABELS, format_interval
from smm4h.utils.console import console, print_table
from smm4h.utils.wording import counted


def print_findings(findings: Iterable[Finding], to: Console = console) -> None:
    """Print what was odd about input files, a finding a line."""
    for finding in findings:
        if finding.is_odd:
            to.print(str(finding), markup=False, soft_wrap=True)


ScoreRows = Sequence[tuple[str, Sequence[dict[str, Any] | None]]]


def about_precision(task: Task) -> str:
    """Return what a table's precision and recall are of, where the metric is of other labels."""
    is_other = task.measure in OF_ALL_LABELS or task.average == "groups"
    return f"; precision and recall of {', '.join(task.positive)}, pooled" if is_other else ""


def print_score_table(
    title: str, measure: str, columns: Sequence[str], rows: ScoreRows, further: Sequence[str] = ()
) -> None:
    """Print a row per name and, for each of `columns` that has scores, its metric with interval, precision and recall.

    Args:
        measure: the metric's name.
        rows: names, each with a result of `Task.score`, or None, per column.
        further: names of further measures.
    """
    kept = [index for index in range(len(columns)) if any(scores[index] for _, scores in rows)]
    shown = [f"{columns[index]} {measure}".strip() for index in kept]
    groups = [[""], *([name, "95 %", "precision", "recall", *further] for name in shown)]
    cells = [[name, *chain(*(_score_cells(scores[i], measure, further) for i in kept))] for name, scores in rows]
    print_table(title, groups, cells)


def _score_cells(score: dict[str, Any] | None, measure: str, further: Sequence[str]) -> list[str]:
    if score is None:
        return ["-", *[""] * (3 + len(further))]
    low, high = score["interval"]
    values = [score[name] for name in (measure, "precision", "recall", *further)]
    shown = [f"{value:.3f}" for value in values]
    return [shown[0], f"{low:.3f}-{high:.3f}", *shown[1:]]


def print_pseudo_label_counts(title: str, counts: Mapping[str, dict[str, Any]]) -> None:
    """Print how many drawn tweets were rejected and accepted as pseudo labels, a row per fold."""
    labels = list(next(iter(counts.values()))["accepted"])
    names = ("drawn", "held out, by another name", "doubted", *(f"accepted as {label}" for label in labels))
    rows = [
        [
            fold,
            *map(str, (row["drawn"], row["held_out"], row["doubted"], *(row["accepted"][label] for label in labels))),
        ]
        for fold, row in counts.items()
    ]
    print_table(title, [[""], *([name] for name in names)], rows)
    # Not by the accepted labels: of label sets, one without any may be accepted, too.
    if without := [fold for fold, row in counts.items() if row["drawn"] == row["held_out"] + row["doubted"]]:
        console.print(
            f"note: no pseudo label is accepted for {', '.join(without)}, whose learners have the labelled tweets "
            "alone; name more tweets, or accept less certain labels (--pseudo_confidence, --pseudo_agreement)",
            markup=False,
            soft_wrap=True,
        )


def print_evaluation(evaluation: dict[str, Any], measure: str) -> None:
    """Print the out-of-fold evaluation of the final vote, with a warning where a baseline scores as high."""
    score = evaluation["score"][measure]
    console.print(f"\n{expected_text(evaluation.get('expected'), measure)}", markup=False, soft_wrap=True)
    if best := evaluation.get("best_member"):
        console.print(f"\nfinal vote against its best member out of fold: {_compared(best)}", markup=False)
    for baseline in evaluation["baselines"]:
        if baseline["difference"] <= 0:
            console.print(
                f"[bold red]THE ENSEMBLE DOES NOT BEAT {escape(baseline['name'])}[/], which takes seconds: "
                f"{escape(_compared(baseline))}"
            )
        else:
            console.print(f"final vote against {_compared(baseline)}", markup=False)
    for name, reason in evaluation.get("suspicious", {}).items():
        console.print(
            f"[bold red]SUSPICIOUS: {escape(name)}[/]: its {escape(reason)}; no score of a vote with it counts"
        )
    for kind, unshared in evaluation["unshared"].items():
        console.print(
            f"on the {unshared['tweets']} tweets without {kind} in another fold, the final vote's out-of-fold "
            f"{measure} is {unshared[measure]:.3f} ({format_interval(unshared['interval'])}), not {score:.3f}",
            markup=False,
        )
    if collapsed := list(evaluation["collapsed"]):
        console.print(
            f"{counted(len(collapsed), 'run')} collapsed (training tweets were not told apart), to be trained again "
            f"with another seed: {', '.join(collapsed)}",
            markup=False,
        )
    if "without" in evaluation:
        _print_members(evaluation, measure)
    print_operating_points(evaluation.get("operating_points", []))


def _print_operating_table(rows: Sequence[dict[str, Any]], part: str, where: str) -> None:
    """Print what recalls cost in a part of the tweets; see `operating_points.operating_points`."""
    cells = []
    for row in rows:
        recall, precision, flagged = (row[part][quantity] for quantity in ("recall", "precision", "flagged"))
        cells.append([row["target"], _with_interval(recall), _with_interval(precision), per_thousand(flagged)])
    groups = [["asked for"], ["recall"], ["precision"], ["to read of 1,000"]]
    print_table(f"\n{where}, what a recall costs", groups, cells)


def _with_interval(share: dict[str, Any]) -> str:
    """Return a share with its interval, two decimals of these."""
    low, high = share["interval"]
    return f"{share['value']:.3f} ({low:.2f} to {high:.2f})"


def per_thousand(flagged: dict[str, Any]) -> str:
    """Return how many of 1,000 tweets are flagged, with the interval."""
    low, high = (1000 * end for end in flagged["interval"])
    return f"{1000 * flagged['value']:.0f} ({low:.0f} to {high:.0f})"


def print_operating_points(rows: Sequence[dict[str, Any]]) -> None:
    """Print what recalls cost, and why some can't be promised."""
    for part, where in (("out_of_fold", "out of fold"), ("test", "on test")):
        if rows and rows[0][part] is not None:
            _print_operating_table(rows, part, where)
    for words in dict.fromkeys(row["words"] for row in rows if row["words"]):
        console.print(words, markup=False, soft_wrap=True)


NOT_EXPECTED = (
    "The out-of-fold score is of single folds' models. What the models that label new tweets will score is not "
    "estimated: that takes 20 test tweets or more (--test_file; labels are not needed)."
)


def expected_text(expected: dict[str, Any] | None, measure: str) -> str:
    """Return what a vote is expected to score on new tweets, beside its out-of-fold score, and what that leaves out."""
    if expected is None:
        return NOT_EXPECTED
    low, high = expected["interval"]
    by = "the refits alone" if expected.get("refits_alone") else "the means of all models"
    return (
        f"Expected {measure} of the {expected['vote']} on {expected['tweets']} test tweets, if they are like the "
        f"labelled ones: {expected['value']:.3f}, between {low:.3f} and {high:.3f} in "
        f"{100 * expected['level']:.0f} of 100 cases, by {by}; out of fold, by single folds' "
        f"models, it is {expected['out_of_fold']:.3f}. What other years, other users and wrong labels change can't be "
        "known."
    )


def promise_text(promise: dict[str, Any]) -> str:
    """Return what a target promises, in a sentence or two."""
    low, high = promise["interval"]
    text = (
        f"{promise['target']}: out of fold it is {promise['value']:.3f}; as many new tweets show "
        f"{low:.2f} to {high:.2f} in 95 of 100 cases."
    )
    return f"{text} {promise['words']}".strip()


def decision_text(result: FinishedJob | Vote) -> str:
    """Return what a decision promises or reaches beside the metric, in a sentence or two; empty where that says it."""
    if result.promise:
        return promise_text(result.promise)
    return _aim_text(result.aim) if result.aim else ""


def _aim_text(aim: dict[str, Any]) -> str:
    if "shares" in aim:
        found, right = (_with_interval(aim["shares"][quantity]) for quantity in ("recall", "precision"))
        flagged = per_thousand(aim["shares"]["flagged"])
        return f"{aim['aim']}: out of fold recall {found}, precision {right}, to read of 1,000 tweets {flagged}."
    if "unflagged" not in aim:
        return f"{aim['aim']}: out of fold it is {aim['value']:.3f} ({format_interval(aim['interval'])})."
    value, low, high, unflagged = (f"{cost:,.0f}" for cost in (aim["value"], *aim["interval"], aim["unflagged"]))
    return (
        f"{aim['aim']}: out of fold the errors on 1,000 tweets cost {value} ({low} to {high}); they would cost "
        f"{unflagged} if no tweet were flagged."
    )


def print_decision(result: FinishedJob | Vote) -> None:
    """Print what a decision promises or reaches, if it is for more than the metric."""
    if text := decision_text(result):
        console.print(text, markup=False, soft_wrap=True)


def print_saved_rule(job: FinishedJob, notices: Sequence[str]) -> None:
    """Print a job's rule after it was changed: what it scores and promises, and what was made anew."""
    asked, score, measure = job.asked, job.final["out_of_fold"], job.task.measure
    alone = ", by the refits alone" if asked.get("predict_with") == "refits" else ""
    console.print(f"the job's rule is now: {asked['method']} vote, {asked['decision']}{alone}", markup=False)
    console.print(f"out of fold, {measure} {score[measure]:.3f} ({format_interval(score['interval'])})", markup=False)
    if expected := job.appraisal.get("expected"):
        console.print(expected_text(expected, measure), markup=False, soft_wrap=True)
    print_decision(job)
    print_operating_points(job.appraisal.get("operating_points", []))
    for notice in notices:
        console.print(f"note: {notice}", markup=False, soft_wrap=True)
    console.print(
        f"made anew in {job.plan.output_dir}: ensemble.json, final vote and submission, scores, errors, report; "
        "predict.py and publish.py use this rule from now on",
        markup=False,
        soft_wrap=True,
    )


def _compared(comparison: dict[str, Any]) -> str:
    """Return a comparison with a member or a baseline on one line."""
    difference = f"{comparison['difference']:+.3f} ({format_interval(comparison['interval'])})"
    return f"{comparison['name']} {comparison['score']:.3f}, difference {difference}, p {comparison['p']:.3f}"


def _print_members(evaluation: dict[str, Any], measure: str) -> None:
    """Print the vote without each member, and random votes of each number of members."""
    score = evaluation["score"][measure]
    without = [[name, f"{value:.3f}", f"{value - score:+.3f}"] for name, value in evaluation["without"].items()]
    print_table("\nout of fold, the vote without a member", [["without"], [measure, "difference"]], without)
    sizes = [
        [str(size["members"]), *(f"{size[key]:.3f}" for key in ("mean", "lowest", "highest"))]
        for size in evaluation["by_number"]
    ]
    groups = [["members"], [f"mean {measure}", "lowest", "highest"]]
    print_table("\nout of fold, votes of that many members", groups, sizes, left=())


def print_scores(scores: Mapping[str, dict[str, Any]], leaky: Mapping[str, str], task: Task) -> None:
    """Print the leaderboard of a job.

    Args:
        scores: by name, of members, votes and baselines: `out_of_fold` and `test` scores, or None.
        leaky: marked names of the rows whose teachers saw the held-out tweets.
    """
    rows = [(leaky.get(name, name), [score["out_of_fold"], score["test"]]) for name, score in scores.items()]
    title = f"\n{task.name}: {task.measured}, 95 % bootstrap intervals{about_precision(task)}"
    print_score_table(title, task.measure, ["out of fold", "test"], rows, task.further_measures)
    if groups := group_rows(*(rows[-1][1] if FINAL not in scores else scores[FINAL].values()), of=task.groups_are):
        name = FINAL if FINAL in scores else rows[-1][0]
        title = f"\n{name} by {task.scored_by}: {task.measure}"
        print_score_table(title, task.measure, ["out of fold", "test"], groups, task.further_measures)
    if leaky:
        console.print("* trained on pseudo labels by teachers that saw the held-out tweets: out of fold, it flatters")
    idle = [name for name, score in scores.items() if score["out_of_fold"]["recall"] == 0]
    if idle:
        console.print(
            f"found no {' or '.join(task.positive)} at all: {', '.join(idle)}; more labelled tweets, more epochs, a "
            "higher learning rate or --decision tuned may help",
            markup=False,
        )


def print_vote(vote: Vote, output: Path) -> None:
    """Print how a vote was held, how often it gives each label, and its score out of fold."""
    labels, predictions = vote.predictions.labels, vote.predictions
    counts = predictions.space.counts(vote.predicted)
    shares = ", ".join(f"{label}: {count}" for label, count in zip(labels, counts, strict=True))
    is_counted = vote.ensemble is None or vote.ensemble.rule.is_argmax  # else the votes are not argmax
    ties = f"; {predictions.count_ties()} ties" if vote.description.startswith("hard") and is_counted else ""
    n_members, n_tweets = len(predictions.members), len(vote.predicted)
    console.print(f"{vote.description} of {n_members} on {n_tweets} tweets ({shares}){ties}", markup=False)
    if vote.ensemble is not None:
        score, measure = vote.ensemble.out_of_fold, vote.task.measure
        interval = format_interval(score["interval"])
        console.print(f"out of fold, {measure} {score[measure]:.3f} ({interval})", markup=False)
    print_decision(vote)
    for notice in vote.notices:
        console.print(f"note: {notice}", markup=False, soft_wrap=True)
    console.print(f"written to {output}", markup=False, soft_wrap=True)


def print_vote_scores(vote: Vote, gold: np.ndarray, gold_file: Path) -> None:
    """Print the scores of each member, by the job's decision or its file's labels, and of the vote.

    Args:
        gold: class indices (n_tweets,), of the gold file.
    """
    predictions, task = vote.predictions, vote.task
    by_name = [*vote.member_votes().items(), ("vote", vote.predicted)]
    rows = [(name, [task.score(gold, predicted, predictions.groups)]) for name, predicted in by_name]
    title = f"{task.name}, {gold_file}{about_precision(task)}"
    print_score_table(title, task.measure, [""], rows, task.further_measures)
    if groups := group_rows(*rows[-1][1], of=task.groups_are):
        print_score_table(f"\nvote by {task.scored_by}", task.measure, [""], groups, task.further_measures)
