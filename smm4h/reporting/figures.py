"""Figures of a finished job with alternative texts: numbers in, a matplotlib figure out.

Colours are Okabe & Ito's, which colour-blind readers can tell apart; line styles and markers differ too, so that the
figures remain readable in print without colour.
"""

import base64
import io
import textwrap
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from smm4h.metrics import average_precision, calibration, calibration_error, f1_of, precision_recall

BLUE, ORANGE, GREEN, PURPLE, SKY, RED, GREY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#D55E00",
    "#666666",
)
COLOURS = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY, GREY)
DASHES = ("-", "--", "-.", ":")
LOOK = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "axes.axisbelow": True,
    "axes.titlesize": 10,
    "text.parse_math": False,  # a label such as `$5` is no formula
    "svg.hashsalt": "smm4h",  # fixed, or equal figures would differ in their bytes
    "figure.constrained_layout.use": True,
}
PROBABILITIES = (1e-5, 1e-4, 0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999)  # ticks of a logit axis
MISSING_LETTER = r"Glyph .* missing from"  # a warning of matplotlib, of each letter of each text
WIDTH, HEIGHT = 4.6, 3.4  # inches: a phone's width


@dataclass(frozen=True)
class Picture:
    """A figure with its name, title and alternative text."""

    name: str
    title: str
    alt: str
    figure: Figure

    def svg_uri(self) -> str:
        """Return the figure as SVG in a data URI, for the `src` of an `img`."""
        content = self._saved("svg", metadata={"Date": None, "Creator": None})
        return "data:image/svg+xml;base64," + base64.b64encode(content).decode()

    def png(self) -> bytes:
        """Return the figure's bytes as PNG."""
        return self._saved("png", dpi=150, metadata={"Software": None})

    def _saved(self, kind: str, **options: Any) -> bytes:
        """Return the figure's file; letters that matplotlib's font lacks are text in an SVG, for the reader's fonts."""
        with warnings.catch_warnings():
            warnings.filterwarnings("error", MISSING_LETTER)
            try:
                return self._written(kind, LOOK, options)
            except UserWarning:
                warnings.filterwarnings("ignore", MISSING_LETTER)
                return self._written(kind, LOOK | {"svg.fonttype": "none"}, options)

    def _written(self, kind: str, look: Mapping[str, Any], options: Mapping[str, Any]) -> bytes:
        stream = io.BytesIO()
        with rc_context(look):
            self.figure.savefig(stream, format=kind, **options)
        return stream.getvalue()


def _drawn(draw: Callable[[Axes], None], height: float = HEIGHT) -> Figure:
    """Return a figure of the given height in inches, drawn by `draw` on a single pair of axes."""
    with rc_context(LOOK):
        figure = Figure(figsize=(WIDTH, height))
        draw(figure.subplots())
    return figure


def _styles(n: int) -> list[dict[str, Any]]:
    """Return colour and line style of n lines; all pairs differ, for up to 28 lines."""
    n_colours, n_dashes = len(COLOURS), len(DASHES)
    return [{"color": COLOURS[i % n_colours], "linestyle": DASHES[(i + i // n_colours) % n_dashes]} for i in range(n)]


def _share_axis(axes: Axes, x: str, y: str) -> None:
    """Label both axes and set their range to shares from 0 to 1."""
    axes.set(xlabel=x, ylabel=y, xlim=(-0.01, 1.01), ylim=(-0.01, 1.02))


def scores(rows: Sequence[tuple[str, dict | None, dict | None]], measure: str, lines: Mapping[str, float]) -> Picture:
    """Plot scores with their intervals, a row a name.

    Args:
        rows: name, out-of-fold scores and test scores, each the result of `Task.score`, or None.
        measure: the metric's name.
        lines: published scores to compare with, by name.
    """
    rows = rows[::-1]
    has_test = any(test for _, _, test in rows)

    def draw(axes: Axes) -> None:
        kinds = [(0.14, BLUE, "o", "out of fold", 1)] + ([(-0.14, RED, "s", "test", 2)] if has_test else [])
        for shift, colour, marker, label, column in kinds:
            for position, row in enumerate(rows):
                if (score := row[column]) is None:
                    continue
                low, high = score["interval"]
                axes.plot([low, high], [position + shift] * 2, color=colour, linewidth=1.5)
                shown = label if position == len(rows) - 1 else None
                axes.plot(score[measure], position + shift, marker, color=colour, markersize=5, label=shown)
        for (name, value), style in zip(lines.items(), (":", "--", "-."), strict=False):
            axes.axvline(value, color=GREY, linestyle=style, linewidth=1, label=_legend(f"{name} {value:.2f}"))
        axes.set_yticks(range(len(rows)), [_short(name) for name, *_ in rows])
        axes.set(xlim=(0, 1), xlabel=f"{measure}, 95 % interval")
        axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.4, -0.12 * 12 / max(4, len(rows))), ncols=2)

    descriptions = [f"{name} {_both(own, test, measure)}" for name, own, test in rows[::-1]]
    alt = f"{measure} with 95 % intervals: " + "; ".join(descriptions) + "."
    return Picture("scores", "Who scores what", alt, _drawn(draw, height=1.5 + 0.32 * len(rows)))


def _both(own: dict | None, test: dict | None, measure: str) -> str:
    """Return a row's scores out of fold and on test in words."""
    parts = [("out of fold", own), ("on test", test)]
    return ", ".join(f"{score[measure]:.3f} {where}" for where, score in parts if score)


def _wrapped(label: str, width: int) -> str:
    """Return the whole label, on lines of about `width` characters."""
    return "\n".join(textwrap.wrap(label, width, break_on_hyphens=False)) or label


def _short(name: str, longest: int = 32) -> str:
    """Return the name, cut to `longest` characters."""
    return name if len(name) <= longest else name[: longest - 1] + "…"


def _legend(text: str) -> str:
    """Return a text for a legend; matplotlib would leave out one that begins with an underscore."""
    return f" {text}" if text.startswith("_") else text


def confusion(matrix: np.ndarray, labels: Sequence[str], where: str) -> Picture:
    """Plot a confusion matrix (n_classes, n_classes), shaded by the shares of each row; `where` names the tweets."""
    shares = matrix / np.maximum(1, matrix.sum(axis=1, keepdims=True))

    def draw(axes: Axes) -> None:
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        axes.grid(False)
        for row, column in np.ndindex(*matrix.shape):
            colour = "white" if shares[row, column] > 0.55 else "black"
            text = f"{matrix[row, column]}\n{shares[row, column]:.0%}"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=9)
        axes.set_xticks(range(len(labels)), [_wrapped(label, 36 // len(labels)) for label in labels], fontsize=8)
        axes.set_yticks(range(len(labels)), [_wrapped(label, 14) for label in labels], fontsize=8)
        axes.set(xlabel="predicted", ylabel="gold")

    descriptions = [
        f"of {matrix[row].sum()} {label}, "
        + ", ".join(f"{matrix[row, c]} as {predicted}" for c, predicted in enumerate(labels))
        for row, label in enumerate(labels)
    ]
    name = f"confusion_{where.replace(' ', '_')}"
    return Picture(name, f"Confusion, {where}", "Predicted: " + "; ".join(descriptions) + ".", _drawn(draw))


def precision_recall_curves(by_label: Mapping[str, tuple[np.ndarray, np.ndarray]], chosen: dict | None) -> Picture:
    """Plot precision against recall for each label.

    Args:
        by_label: by label, probabilities and hits, (n_tweets,) each.
        chosen: precision and recall of the ensemble's decision, to be marked; None: no mark.
    """
    descriptions = []

    def draw(axes: Axes) -> None:
        for (label, (values, hits)), style in zip(by_label.items(), _styles(len(by_label)), strict=True):
            _, precision, recall = precision_recall(values, hits)
            area = average_precision(values, hits)
            descriptions.append(f"{label}: average precision {area:.3f}, where guessing has {hits.mean():.3f}")
            axes.plot(recall, precision, label=_legend(f"{label} (AP {area:.2f})"), **style)
            axes.axhline(hits.mean(), color=style["color"], linewidth=0.7, alpha=0.6)
        if chosen:
            axes.plot(chosen["recall"], chosen["precision"], "k*", markersize=11, label="the vote's decision")
        _share_axis(axes, "recall", "precision")
        axes.legend(fontsize=8)

    figure = _drawn(draw)
    alt = f"Precision against recall, out of fold. {'; '.join(descriptions)}."
    return Picture("precision_recall", "Precision and recall, out of fold", alt, figure)


def thresholds(label: str, values: np.ndarray, hits: np.ndarray, chosen: float | None, n_given: int) -> Picture:
    """Plot precision, recall and F1 of a label against the threshold on its probability.

    Args:
        values: (n_tweets,) probabilities of the label.
        hits: (n_tweets,) whether it is the gold label.
        chosen: the threshold that was fitted to these probabilities; None: the decision is no threshold.
        n_given: tweets that the decision gives the label; without `chosen`, the threshold that gives as many is marked.
    """
    cuts, precision, recall = precision_recall(values, hits)
    f1 = f1_of(precision, recall)
    best = int(f1.argmax())
    kind = "the decision, out of fold" if chosen is not None else "as many as the vote gives"
    if chosen is None and n_given:
        chosen = float(np.sort(values)[-n_given])

    def draw(axes: Axes) -> None:
        series = (("precision", precision), ("recall", recall), ("F1", f1))
        for (name, curve), style in zip(series, _styles(3), strict=True):
            axes.plot(cuts, curve, label=name, **style)
        if chosen is not None:
            axes.axvline(chosen, color="black", linewidth=1, linestyle=":", label=f"{kind}: {chosen:.3g}")
        ticks = [tick for tick in PROBABILITIES if cuts.min() <= tick <= cuts.max()]
        if len(ticks) > 2 and cuts.min() > 0 and cuts.max() < 1:
            axes.set_xscale("logit")
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        else:
            axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.set(xlabel="probability from which the label is given", ylim=(-0.01, 1.02))
        axes.minorticks_off()
        axes.legend(
            fontsize=8, loc="upper center", bbox_to_anchor=(0.45, -0.18), ncols=2
        )  # below: curves fill the axes

    used = "" if chosen is None else f"; {kind}: {chosen:.3g}"
    alt = f"The highest F1 of {label} out of fold is {f1[best]:.3f}, from a probability of {cuts[best]:.3g} on{used}."
    return Picture(f"threshold_{label}", f"Where to cut: {label}", alt, _drawn(draw, height=HEIGHT + 0.3))


def calibration_curves(by_label: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Picture:
    """Plot calibration curves from probabilities and hits, (n_tweets,) each, by label."""
    descriptions = []

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8)
        for (label, (values, hits)), style in zip(by_label.items(), _styles(len(by_label)), strict=True):
            means, right, _ = calibration(values, hits)
            error = calibration_error(values, hits)
            descriptions.append(f"{label}: mean distance from the diagonal {error:.3f}")
            axes.plot(means, right, marker="o", markersize=4, label=_legend(f"{label} (error {error:.3f})"), **style)
        _share_axis(axes, "mean probability", "share that is right")
        axes.legend(fontsize=8, loc="upper left")

    figure = _drawn(draw)
    alt = f"How often a probability is right, out of fold, in bins of equally many tweets. {'; '.join(descriptions)}."
    return Picture("calibration", "Calibration, out of fold", alt, figure)


def agreement(matrix: np.ndarray, names: Sequence[str]) -> Picture:
    """Plot a heat map of the correlations (n_members, n_members) between members."""
    n = len(names)
    indices = np.tril_indices(n, -1)
    pairs = matrix[indices]

    def draw(axes: Axes) -> None:
        image = axes.imshow(matrix, cmap="cividis", vmin=min(0.0, float(matrix.min())), vmax=1)
        axes.grid(False)
        if n <= 12:
            for row, column in np.ndindex(n, n):
                colour = "black" if matrix[row, column] > 0.6 else "white"
                text = f"{matrix[row, column]:.2f}".replace("0.", ".")
                axes.text(column, row, text, ha="center", va="center", fontsize=7, color=colour)
        axes.set_xticks(range(n), [_short(name) for name in names], rotation=90, fontsize=8)
        axes.set_yticks(range(n), [_short(name) for name in names], fontsize=8)
        axes.figure.colorbar(image, ax=axes, shrink=0.7)

    alt = "Only one member."
    if len(pairs):
        low, high = int(pairs.argmin()), int(pairs.argmax())
        (a, b), (c, d) = ((names[indices[0][pair]], names[indices[1][pair]]) for pair in (low, high))
        alt = (
            f"Correlation between members out of fold: lowest {pairs[low]:.2f} ({a} and {b}), "
            f"highest {pairs[high]:.2f} ({c} and {d})."
        )
    height = 2.6 + 0.3 * n
    return Picture("agreement", "How alike members judge", alt, _drawn(draw, height=height))


def learning_curves(curves: Mapping[str, list[list[dict[str, float]]]], measure: str) -> Picture:
    """Plot each member's held-out metric by epoch, the mean over its runs.

    Args:
        curves: by member, a list of evaluations per run.
        measure: the metric's name.
    """
    means = {name: _mean_curve([run for run in runs if run], measure) for name, runs in curves.items()}

    def draw(axes: Axes) -> None:
        for (name, (epochs, values)), style in zip(means.items(), _styles(len(means)), strict=True):
            axes.plot(epochs, values, marker=".", label=_legend(_short(name)), **style)
        axes.set(xlabel="epoch", ylabel=f"held-out {measure} by highest probability", ylim=(-0.01, 1.02))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.legend(fontsize=7, ncols=2, loc="upper center", bbox_to_anchor=(0.45, -0.16))

    descriptions = [f"{name} from {values[0]:.3f} to {values[-1]:.3f}" for name, (_, values) in means.items()]
    alt = f"Held-out {measure} by epoch, mean over folds, by the highest probability: " + "; ".join(descriptions) + "."
    return Picture("learning", "Learning curves", alt, _drawn(draw, height=HEIGHT + 0.12 * len(means)))


def _mean_curve(runs: Sequence[list[dict[str, float]]], measure: str) -> tuple[np.ndarray, np.ndarray]:
    """Return epochs and mean scores, (n_common,) each, over the evaluations that all runs have."""
    n_common = min(len(run) for run in runs)
    epochs = np.array([evaluation["epoch"] for evaluation in runs[0][:n_common]])
    return epochs, np.mean([[evaluation[measure] for evaluation in run[:n_common]] for run in runs], axis=0)


def folds(by_member: Mapping[str, Sequence[float]], measure: str) -> Picture:
    """Plot each member's score on each fold."""
    names = list(by_member)[::-1]

    def draw(axes: Axes) -> None:
        for position, name in enumerate(names):
            axes.plot(by_member[name], [position] * len(by_member[name]), "o", color=BLUE, alpha=0.6, markersize=5)
            axes.plot(np.mean(by_member[name]), position, "|", color="black", markersize=14)
        axes.set_yticks(range(len(names)), [_short(name) for name in names])
        axes.set(xlim=(-0.02, 1), ylim=(-0.5, len(names) - 0.5), xlabel=f"held-out {measure} of each fold; bar: mean")

    descriptions = [f"{name} {min(values):.3f} to {max(values):.3f}" for name, values in by_member.items()]
    alt = f"Held-out {measure} by fold: " + "; ".join(descriptions) + "."
    return Picture("folds", "What each fold scored", alt, _drawn(draw, height=1.2 + 0.3 * len(names)))


def by_ensemble_size(rows: Sequence[Mapping[str, float]], measure: str) -> Picture:
    """Plot mean, lowest and highest score of votes by the number of members."""
    sizes, mean = [row["members"] for row in rows], [row["mean"] for row in rows]

    def draw(axes: Axes) -> None:
        low, high = ([row[key] for row in rows] for key in ("lowest", "highest"))
        axes.fill_between(sizes, low, high, color=SKY, alpha=0.35, label="lowest to highest")
        axes.plot(sizes, mean, marker="o", color=BLUE, label="mean")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel="members that vote", ylabel=f"out-of-fold {measure}")
        axes.legend(fontsize=8)

    alt = f"Votes of one member score {mean[0]:.3f} on average, votes of all {sizes[-1]} {mean[-1]:.3f}."
    return Picture("by_number", "How many members it takes", alt, _drawn(draw))


def costs(rows: Sequence[Mapping[str, Any]]) -> Picture:
    """Plot the minutes of each member's runs, summed over its runs."""
    rows = rows[::-1]

    def draw(axes: Axes) -> None:
        positions = range(len(rows))
        axes.barh(positions, [row["training_seconds"] / 60 for row in rows], color=BLUE, label="training")
        rest = [(row["seconds"] - row["training_seconds"]) / 60 for row in rows]
        left = [row["training_seconds"] / 60 for row in rows]
        axes.barh(positions, rest, left=left, color=ORANGE, hatch="//", label="predicting, saving")
        axes.set_yticks(list(positions), [_short(row["name"]) for row in rows])
        axes.set(xlabel="minutes, all runs together")
        axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.4, -0.12 * 12 / max(4, len(rows))), ncols=2)

    total = sum(row["seconds"] for row in rows) / 60
    alt = f"All runs took {total:.1f} minutes together: " + "; ".join(
        f"{row['name']} {row['seconds'] / 60:.1f}" for row in rows[::-1]
    )
    return Picture("costs", "What it cost", f"{alt}.", _drawn(draw, height=1.3 + 0.3 * len(rows)))


def differences(rows: Sequence[tuple[str, Mapping[str, Any]]], names: Sequence[str]) -> Picture:
    """Plot differences of two jobs with their intervals, a row a quantity.

    Args:
        rows: names of quantities, each with a result of `metrics.paired_bootstrap`.
        names: of the two jobs; the second is subtracted.
    """
    shown = list(rows)[::-1]

    def draw(axes: Axes) -> None:
        axes.axvline(0, color=GREY, linewidth=1)
        for position, (_, row) in enumerate(shown):
            axes.plot(row["interval"], [position] * 2, color=BLUE, linewidth=2)
            axes.plot(row["difference"], position, "o", color=BLUE, markersize=6)
        axes.set_yticks(range(len(shown)), [name for name, _ in shown])
        axes.set(ylim=(-0.6, len(shown) - 0.4), xlabel=f"{_short(names[0], 20)} minus {_short(names[1], 20)}")

    described = (
        f"{name} {row['difference']:+.3f}, {row['interval'][0]:+.3f} to {row['interval'][1]:+.3f}" for name, row in rows
    )
    alt = f"{names[0]} minus {names[1]}, with 95 % intervals: {'; '.join(described)}."
    return Picture("differences", "Differences", alt, _drawn(draw, height=1.2 + 0.34 * len(shown)))
