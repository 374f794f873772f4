"""Tables of scores and of pseudo labels for the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from smm4h.metrics import format_interval
from smm4h.utils.console import console


def score_table(
    title: str, measure: str, columns: Sequence[str], rows: Sequence[tuple[str, Sequence[dict[str, Any] | None]]]
) -> Table:
    """A table with a row a voter and, for each of `columns`, its measure with interval, precision and recall."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for column in columns:
        table.add_column(f"{column} {measure}", justify="right")
        table.add_column("95 %", justify="right")
        table.add_column("precision", justify="right")
        table.add_column("recall", justify="right")
    for name, scores in rows:
        cells = []
        for score in scores:
            if score is None:
                cells += ["-", "", "", ""]
            else:
                low, high = score["interval"]
                cells += [
                    f"{score[measure]:.3f}",
                    f"{low:.3f}-{high:.3f}",
                    f"{score['precision']:.3f}",
                    f"{score['recall']:.3f}",
                ]
        table.add_row(name, *cells)
    return table


def counts_table(title: str, counts: Mapping[str, dict[str, Any]]) -> Table:
    """What became of the tweets that might have joined each fold's training part."""
    labels = list(next(iter(counts.values()))["accepted"])
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for name in ("drawn", "held out, by another name", "doubted", *(f"accepted as {label}" for label in labels)):
        table.add_column(escape(name), justify="right")
    for fold, of in counts.items():
        cells = (of["drawn"], of["held_out"], of["doubted"], *(of["accepted"][label] for label in labels))
        table.add_row(fold, *map(str, cells))
    return table


def print_evaluation(appraisal: dict[str, Any], measure: str) -> None:
    """What there is to say of the final vote, out of fold; loudly where a baseline is as good."""
    score = appraisal["score"][measure]
    if best := appraisal.get("best_member"):
        console.print(f"\nfinal vote against its best member out of fold: {_compared(best)}", markup=False)
    for baseline in appraisal["baselines"]:
        if baseline["difference"] <= 0:
            console.print(
                f"[bold red]THE ENSEMBLE DOES NOT BEAT {escape(baseline['name'])}[/], which takes seconds: "
                f"{escape(_compared(baseline))}"
            )
        else:
            console.print(f"final vote against {_compared(baseline)}", markup=False)
    for what, unshared in appraisal["unshared"].items():
        console.print(
            f"on the {unshared['tweets']} tweets without {what} in another fold, the final vote's out-of-fold "
            f"{measure} is {unshared[measure]:.3f} ({format_interval(unshared['interval'])}), not {score:.3f}",
            markup=False,
        )
    if collapsed := list(appraisal["collapsed"]):
        console.print(
            f"{len(collapsed)} runs collapsed (could not tell their own training tweets apart) and were trained again "
            f"with another seed: {', '.join(collapsed)}",
            markup=False,
        )
    if "without" in appraisal:
        console.print(_members_table(appraisal, measure))


def _compared(other: dict[str, Any]) -> str:
    difference = f"{other['difference']:+.3f} ({format_interval(other['interval'])})"
    return f"{other['name']} {other['score']:.3f}, difference {difference}, p {other['p']:.3f}"


def _members_table(appraisal: dict[str, Any], measure: str) -> Table:
    """Beside each other: the vote without each member, and random votes of so many members."""
    table = Table(box=None, pad_edge=False, header_style="bold", title="\nout of fold", title_justify="left")
    for name in ("vote without", measure, "difference", "  votes of", f"mean {measure}", "lowest", "highest"):
        table.add_column(name, justify="left" if name == "vote without" else "right")
    score = appraisal["score"][measure]
    for (name, without), of in zip(appraisal["without"].items(), appraisal["by_number"], strict=True):
        spread = [f"{of[key]:.3f}" for key in ("mean", "lowest", "highest")]
        table.add_row(escape(name), f"{without:.3f}", f"{without - score:+.3f}", str(of["members"]), *spread)
    return table
