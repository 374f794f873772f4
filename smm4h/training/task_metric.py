"""A task's measure as an `evaluate.Metric` that needs no network; apart, because `evaluate` takes seconds to import."""

from collections.abc import Sequence

import datasets
import evaluate
import numpy as np

from smm4h.metrics import MEASURES, confusion_matrix, precision, recall


class TaskMeasure(evaluate.Metric):
    """A task's official measure, with precision and recall, as an `evaluate.Metric` built here rather than loaded.

    Args:
        measure: a name in `MEASURES`; the result holds it under this name.
        n_classes: how many labels the task has.
        positive: indices of the labels that the measure is about.
    """

    def __init__(self, measure: str, n_classes: int, positive: Sequence[int]) -> None:
        self.measure, self.n_classes, self.positive = measure, n_classes, list(positive)
        super().__init__(config_name=measure, keep_in_memory=True)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Official measures of SMM4H 2020 tasks 1, 2 and 5.",
            citation="Klein et al. 2020, Overview of the Fifth SMM4H Shared Tasks at COLING 2020",
            inputs_description="Class indices, one a tweet, in the same order.",
            features=datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}),
        )

    def _compute(self, predictions, references) -> dict[str, float]:
        confusion = confusion_matrix(np.asarray(references), np.asarray(predictions), self.n_classes)
        return {
            self.measure: float(MEASURES[self.measure](confusion, self.positive)),
            "precision": float(precision(confusion, self.positive)),
            "recall": float(recall(confusion, self.positive)),
        }
