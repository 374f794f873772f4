"""report.html: a finished job on one page that needs nothing else, for those who may read its tweets."""

import csv
from pathlib import Path

import jinja2
import numpy as np

from smm4h.inference.finished_job import FinishedJob
from smm4h.metrics import format_interval
from smm4h.models.voting import binary_threshold
from smm4h.reporting import figures
from smm4h.reporting.figures import Picture
from smm4h.reporting.hub import display_name
from smm4h.utils.files import read_json, write_text

TEMPLATES = Path(__file__).parent / "templates"
PROBLEMS_SHOWN = 30
METHODS = {
    "hard": "each member names a label, the label that most of them name wins",
    "soft": "the mean over the members",
    "weighted": "the mean over the calibrated members, weighted by their scores",
    "greedy": "the mean over calibrated members, weighted by a bagged greedy selection",
    "stacked": "a regularised logistic regression over the calibrated members",
}


def write_report(outcome: FinishedJob) -> Path:
    """Writes report.html into the job's folder, and returns where it is."""
    path = outcome.plan.output_dir / "report.html"
    template = environment(autoescape=True).get_template("report.html")
    write_text(path, template.render(**_content(outcome)))
    return path


def environment(*, autoescape: bool) -> jinja2.Environment:
    """Where templates lie, and how they write numbers."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=autoescape,
        undefined=jinja2.StrictUndefined,
        trim_blocks=not autoescape,
        lstrip_blocks=not autoescape,
    )
    made.globals |= {"number": "{:.3f}".format, "signed": "{:+.3f}".format, "range": format_interval}
    return made


def _content(outcome: FinishedJob) -> dict:
    appraisal, costs = outcome.appraisal, outcome.costs()
    problems = _problems(outcome.plan.output_dir / "label_problems.tsv")
    return {
        "outcome": outcome,
        "measure": outcome.task.measure,
        "flattered": outcome.leaky,
        "comparisons": [of for of in (appraisal.get("best_member"), *appraisal["baselines"]) if of],
        "rule_text": rule_text(outcome),
        "pictures": pictures_of(outcome),
        "costs": costs,
        "total_minutes": sum(cost["seconds"] for cost in costs) / 60,
        "file_name": lambda where: Path(where).name if Path(where).is_absolute() else where,
        "findings": read_json(outcome.plan.output_dir / "data_report.json"),
        "problems": problems[:PROBLEMS_SHOWN],
        "n_problems": len(problems),
        "encoders": [display_name(name) for name in outcome.encoder_names],
    }


def _problems(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))


def rule_text(outcome: FinishedJob) -> str:
    """How the members' probabilities become a label, in words."""
    rule, labels = outcome.rule, outcome.task.labels
    means = "log odds" if rule.mean == "log_odds" else "probabilities"
    text = f"{METHODS[rule.method]}; of {means}, also over a member's folds. "
    if any(run.is_refit for run in outcome.plan.runs):
        text += "A model that was refitted to all labelled tweets counts as much as its member's folds together. "
    if rule.is_argmax:
        text += "The highest probability decides. "
    elif len(labels) == 2:
        cuts = [binary_threshold(weights) for weights in rule.decision]
        cut = f"{cuts[0]:.3g}" if len(cuts) == 1 else f"{min(cuts):.3g} to {max(cuts):.3g}, by member"
        text += f"{labels[1]} is given from a probability of {cut} on, tuned out of fold for the measure. "
    else:
        weights = np.exp(np.log(rule.decision).mean(axis=0))
        told = ", ".join(f"{label}: {weight:.3g}" for label, weight in zip(labels, weights, strict=True))
        text += f"The highest weighted probability decides, weights tuned out of fold for the measure: {told}. "
    if rule.method == "hard":
        ties = "the higher mean probability" if rule.ties == "probability" else "the first label"
        text += f"Ties go to {ties}."
    if rule.weights is not None:
        shares = ", ".join(f"{n} {w:.2f}" for n, w in zip(rule.members, rule.weights, strict=True) if w > 0)
        text += f"Weights: {shares}."
    return text.strip()


def pictures_of(outcome: FinishedJob, *, for_card: bool = False) -> list[Picture]:
    """All pictures, or the few that a model card shows."""
    task, measure, positive = outcome.task, outcome.task.measure, outcome.task.positive_indices
    rows = [(name, of["out_of_fold"], of["test"]) for name, of in outcome.scores.items()]
    of_label = {task.named(task.labels[i]): (outcome.combined[:, i], outcome.gold == i) for i in positive}
    labels = [task.named(label) for label in task.labels]
    found = [
        figures.scores(rows, measure, {} if for_card else task.published),
        figures.confusion(outcome.confusion("out_of_fold"), labels, "out of fold"),
        figures.precision_recall_curves(of_label, outcome.final["out_of_fold"]),
        figures.calibration_curves(of_label),
    ]
    if for_card:
        return found
    if outcome.final["test"]:
        found.insert(2, figures.confusion(outcome.confusion("test"), labels, "test"))
    cut = None
    if task.n_classes == 2 and outcome.rule.method != "hard":
        cut = binary_threshold(outcome.fitted_decision[0])
        cut = cut if positive == [1] else None
    found += [figures.thresholds(label, *of, cut) for label, of in of_label.items()]
    found += [
        figures.agreement(outcome.agreement(), outcome.names),
        figures.folds(outcome.fold_scores(), measure),
        figures.costs(outcome.costs()),
    ]
    if curves := outcome.learning_curves():
        found.append(figures.learning_curves(curves, measure))
    if "by_number" in outcome.appraisal:
        found.append(figures.by_ensemble_size(outcome.appraisal["by_number"], measure))
    return found
