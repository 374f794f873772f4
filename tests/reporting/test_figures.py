"""Figures: names are drawn as they are."""

import base64
import warnings

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from smm4h.reporting import figures

ODD = ["$a$_{b", "_none", "50 % of $"]


def texts(picture) -> list[str]:
    picture.png()  # raises for a formula that is none
    return [text.get_text().strip() for text in picture.figure.findobj(Text)]


@pytest.fixture
def curves():
    rng = np.random.default_rng(0)
    return {label: (rng.random(40), rng.random(40) < 0.5) for label in ODD}


def test_a_label_is_no_formula(curves):
    matrix = np.arange(9).reshape(3, 3)
    score = {"f1": 0.5, "interval": (0.4, 0.6)}
    pictures = [
        figures.confusion(matrix, ODD, "test"),
        figures.precision_recall_curves(curves, None),
        figures.calibration_curves(curves),
        figures.scores([(name, score, score) for name in ODD], "f1", dict.fromkeys(ODD, 0.5)),
        figures.learning_curves({name: [[{"epoch": 1, "f1": 0.5}]] for name in ODD}, "f1"),
    ]
    for picture in pictures:
        assert any("$" in text for text in texts(picture)), picture.name
        formulas = [text for text in picture.figure.findobj(Text) if "$" in text.get_text() and text.get_parse_math()]
        assert not formulas, picture.name
    assert set(ODD[:2]) <= set(texts(pictures[0]))


def test_a_legend_names_labels_that_begin_with_an_underscore(curves):
    shown = texts(figures.precision_recall_curves(curves, None))
    assert [text.split(" (AP")[0] for text in shown if "(AP" in text] == ODD


def test_letters_that_the_font_lacks_are_text_for_the_readers_fonts_and_no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pictures = [figures.confusion(np.eye(2, dtype=int), [label, "en"], "test") for label in ("日本", "de")]
        drawings = [base64.b64decode(picture.svg_uri().partition(",")[2]).decode() for picture in pictures]
        assert pictures[0].png()
    assert ">日本</text>" in drawings[0]
    assert "<text" not in drawings[1]


def test_no_word_of_a_threshold_picture_is_cut_by_its_edge(curves):
    picture = figures.thresholds("side effect (a side effect is reported as certain)", *curves[ODD[0]], 0.5, 3)
    FigureCanvasAgg(picture.figure).draw()
    (axes,) = picture.figure.axes
    for box in (text.get_window_extent() for text in (axes.xaxis.label, *axes.get_legend().get_texts())):
        assert 0 <= box.x0 < box.x1 <= picture.figure.bbox.x1
