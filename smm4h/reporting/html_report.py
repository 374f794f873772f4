"""report.html: a finished job on one self-contained page, which contains tweets."""

import csv
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import jinja2

from smm4h.data.readers.spreadsheets import unprotect
from smm4h.data.readers.tables import unwrap_quotes
from smm4h.ensemble.fitted_ensemble import unadjusted_note
from smm4h.ensemble.scoring import FINAL, group_rows
from smm4h.ensemble.stages import ERRORS_FILE
from smm4h.inference.finished_job import FinishedJob
from smm4h.metrics import format_interval
from smm4h.models.voting import VotingRule, binary_threshold
from smm4h.reporting import figures
from smm4h.reporting.figures import Picture
from smm4h.reporting.hub import display_name
from smm4h.reporting.terminal import decision_text, expected_text, per_thousand
from smm4h.utils.files import read_json, write_text

TEMPLATES = Path(__file__).parent / "templates"
READ_FILES = ("data_report.json", "label_problems.tsv", ERRORS_FILE)  # beside those of `FinishedJob`
SHOWN = 30  # rows of a table of tweets
PARTS = {"out_of_fold": "out of fold", "test": "on test"}
SECTIONS = [
    ("scores", "Scores"),
    ("decision", "The decision"),
    ("pictures", "Pictures"),
    ("members", "Members"),
    ("errors", "Errors to read"),
    ("labels", "Doubtful labels"),
    ("data", "Data"),
    ("made", "How it was made"),
]


def write_report(job: FinishedJob) -> Path:
    """Write report.html into the job's folder, record its hash, and return its path.

    Raises `InputError` for a damaged file.
    """
    derived, path = job.plan.derived, job.plan.output_dir / "report.html"
    for name in READ_FILES:
        derived.check(job.plan.output_dir / name)
    template = environment(autoescape=True).get_template("report.html")
    write_text(path, template.render(**_content(job)), private=True)
    derived.record(path)
    return path


def environment(*, autoescape: bool) -> jinja2.Environment:
    """Return the Jinja environment of the templates, with number formats as globals."""
    jinja = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=autoescape,
        undefined=jinja2.StrictUndefined,
        trim_blocks=not autoescape,
        lstrip_blocks=not autoescape,
    )
    jinja.globals |= {"number": "{:.3f}".format, "signed": "{:+.3f}".format, "range": format_interval}
    return jinja


def _content(job: FinishedJob) -> dict:
    """Return the variables of the report's template."""
    evaluation, costs = job.appraisal, job.costs()
    folder = job.plan.output_dir
    problems, errors = _rows(folder / "label_problems.tsv") or [], _rows(folder / ERRORS_FILE)
    points, expected = evaluation.get("operating_points", []), evaluation.get("expected")
    parts = {part: title for part, title in PARTS.items() if job.final[part]}
    return {
        "job": job,
        "measure": job.task.measure,
        "leaky": job.leaky,
        "comparisons": [
            comparison for comparison in (evaluation.get("best_member"), *evaluation["baselines"]) if comparison
        ],
        "rule_text": rule_text(job),
        "further": [name for name in job.task.further_measures if name in job.final["out_of_fold"]],
        "groups": group_rows(job.final["out_of_fold"], job.final["test"], of=job.task.groups_are),
        "group_names": sorted(job.final["out_of_fold"].get("groups", {})),
        "expected": expected,
        "expected_text": expected_text(expected, job.task.measure) if expected else "",
        "decision_text": decision_text(job),
        "sections": [section for section in SECTIONS if section[0] != "members" or "without" in evaluation],
        "vote": FINAL,
        "score_parts": parts,
        "classes": {part: job.task.score_classes(job.final[part]) for part in parts},
        "points": points,
        "doubts": list(dict.fromkeys(row["words"] for row in points if row["words"])),
        "per_thousand": per_thousand,
        "has_curves": bool(job.learning_curves()),
        "has_steps": any(cost["steps"] for cost in costs),
        "errors": errors if errors is None else errors[:SHOWN],
        "n_errors": len(errors or []),
        "command": command_of(job.command) if job.command else "",
        "pictures": pictures_of(job),
        "costs": costs,
        "total_minutes": sum(cost["seconds"] for cost in costs) / 60,
        "file_name": lambda location: Path(location).name if Path(location).is_absolute() else location,
        "findings": read_json(job.plan.output_dir / "data_report.json"),
        "problems": problems[:SHOWN],
        "n_problems": len(problems),
        "encoders": [display_name(name) for name in job.encoder_names],
    }


def command_of(words: Sequence[str]) -> str:
    """Return the command line as it was given, but for paths that lead out of the working folder."""
    return shlex.join(["accelerate", "launch", "run_classification.py", *map(shown_word, words)])


# paths that tell of this machine
OUTSIDE = re.compile(r"(?:file:|[A-Za-z]:[\\/]|[\\/]|~|\$)|(?:.*[\\/])?\.\.(?:[\\/]|$)")


# of a mapping such as {unlabelled: FILE}, a text in quotes or a word
OF_MAPPING = re.compile(r"""(?P<quote>["'])(?P<text>.*?)(?P=quote)|[^\s{}\[\]"',:]+""")


def shown_word(word: str) -> str:
    """Return a word of a command; of a path that is absolute or leads upwards only its last part, as paths are private.

    Paths stand alone, behind a flag's `=`, in a list with commas, or in a mapping.
    """
    if word.startswith("{"):
        return OF_MAPPING.sub(_shown_of_mapping, word)
    if word.startswith("-") and "=" in word:
        flag, _, value = word.partition("=")
        return f"{flag}={shown_word(value)}"
    if "," in word:
        return ",".join(map(shown_word, word.split(",")))
    if not OUTSIDE.match(word):
        return word
    parts = [part for part in re.split(r"[\\/]", word) if part not in ("", ".", "..", "~", "file:")]
    return parts[-1] if parts else "FOLDER"


def _shown_of_mapping(found: re.Match[str]) -> str:
    quote = found["quote"] or ""
    return f"{quote}{shown_word(found['text'] if quote else found[0])}{quote}"


def _rows(path: Path) -> list[dict[str, str]] | None:
    """Return the rows of a table of tweets; None where it is not there."""
    if not path.is_file():
        return None
    with path.open(encoding="utf-8", newline="") as lines:
        rows = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [{name: unwrap_quotes(unprotect(cell)) for name, cell in row.items()} for row in rows]


def rule_text(job: FinishedJob, rule: VotingRule | None = None) -> str:
    """Return a description of how the members' probabilities become a label, by the job's rule or another."""
    has_refits, rule = any(run.is_refit for run in job.plan.runs), rule or job.rule
    text, note = rule.describe(job.task.labels, has_refits=has_refits), unadjusted_note(job.plan, rule)
    if note:
        return f"{text} There were no test tweets: {note}."
    if rule is not job.rule or _threshold(job) is None:
        return text
    fitted, used = (f"{binary_threshold(decision[0]):.3g}" for decision in (job.fitted_decision, rule.decision))
    moved = f" That is for the means of all models; out of fold, single folds' models are cut at {fitted}."
    return text + (moved if fitted != used else "")


def _threshold(job: FinishedJob) -> float | None:
    """Return the out-of-fold probability of the rare one of two labels from which it is given.

    None where no single threshold decides.
    """
    positive = job.task.positive_indices
    if job.task.n_classes != 2 or job.rule.method == "hard" or len(positive) != 1 or job.rule.cuts:
        return None
    of_second = binary_threshold(job.fitted_decision[0])
    return of_second if positive == [1] else 1 - of_second


def pictures_of(job: FinishedJob, *, for_card: bool = False) -> list[Picture]:
    """Return all figures of a job, or the few that a model card shows."""
    task, measure, positive = job.task, job.task.measure, job.task.positive_indices
    rows = [(name, score["out_of_fold"], score["test"]) for name, score in job.scores.items()]
    has_label = task.space.targets(job.gold) > 0
    by_label = {task.named(task.labels[i]): (job.combined[:, i], has_label[:, i]) for i in positive}
    labels = task.decided_names
    pictures = [
        figures.scores(rows, measure, {} if for_card else job.published),
        figures.confusion(job.confusion("out_of_fold"), labels, "out of fold"),
        figures.precision_recall_curves(by_label, job.final["out_of_fold"]),
        figures.calibration_curves(by_label),
    ]
    if for_card:
        return pictures
    if job.final["test"]:
        pictures.insert(2, figures.confusion(job.confusion("test"), labels, "test"))
    threshold = _threshold(job)
    given = task.given(job.final["out_of_fold"])
    for index, (label, curve) in zip(positive, by_label.items(), strict=True):
        pictures.append(figures.thresholds(label, *curve, threshold, given[task.labels[index]]))
    pictures += [
        figures.agreement(job.agreement(), job.names),
        figures.folds(job.fold_scores(), measure),
        figures.costs(job.costs()),
    ]
    if curves := job.learning_curves():
        pictures.append(figures.learning_curves(curves, measure))
    if "by_number" in job.appraisal:
        pictures.append(figures.by_ensemble_size(job.appraisal["by_number"], measure))
    return pictures
