"""What an evaluation during training scores: the task's metric, and the cross-entropy."""

from dataclasses import dataclass

import datasets
import evaluate
import numpy as np
import torch
from torch import nn
from transformers import EvalPrediction

from smm4h.config.task import Task
from smm4h.metrics import confusion_matrix, precision, recall
from smm4h.models.batching import probabilities_of
from smm4h.training.losses import LabelSetLoss
from smm4h.training.trainer import BestEpoch


class TaskMetric(evaluate.Metric):
    """A task's official metric, with precision and recall, as an `evaluate.Metric` that needs no network.

    Args:
        task: the result holds its metric under the metric's name.
        groups: (n_tweets,) of the tweets, in their order; None: there are none.
    """

    def __init__(self, task: Task, groups: np.ndarray | None = None) -> None:
        self.task, self.groups = task, groups
        super().__init__(config_name=task.measure, keep_in_memory=True)

    def _build_data_dir(self) -> str:
        """Make no folder: predictions are kept in memory, and HF_HOME may be read-only."""
        return self._data_dir_root

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Official measures of SMM4H 2020 tasks 1, 2 and 5.",
            citation="Klein et al. 2020, Overview of the Fifth SMM4H Shared Tasks at COLING 2020",
            inputs_description="Class indices, one a tweet, in the same order.",
            features=datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}),
        )

    def _compute(self, predictions, references) -> dict[str, float]:
        space, objective = self.task.space, self.task.objective
        gold, predicted = (space.decided_classes(np.asarray(classes)) for classes in (references, predictions))
        groups, n_decided = space.decided_groups(len(references), self.groups), len(space.decided)
        confusion = confusion_matrix(gold, predicted, n_decided)
        return {
            self.task.measure: objective.score(gold, predicted, n_decided, groups),
            "precision": float(precision(confusion, objective.positive)),
            "recall": float(recall(confusion, objective.positive)),
        }


@dataclass(frozen=True)
class Scoring:
    """Scores an evaluation; Trainer's `compute_metrics`.

    Args:
        best: gets the evaluation's logits, or None unless `are_final`.
        are_final: whether the held-out tweets' predictions would be the same as those of the best evaluation.
    """

    task: Task
    metric: TaskMetric
    best: BestEpoch
    are_final: bool

    def __call__(self, output: EvalPrediction) -> dict[str, float]:
        logits = torch.from_numpy(output.predictions).double()
        self.best.latest = output.predictions if self.are_final else None
        predicted = self.task.space.most_probable(probabilities_of(logits, self.task.space.problem_type).numpy())
        scores = self.metric.compute(predictions=predicted, references=output.label_ids)
        return {**scores, "cross_entropy": self._cross_entropy(logits, output.label_ids)}

    def _cross_entropy(self, logits: torch.Tensor, labels: np.ndarray) -> float:
        if not self.task.multi_label:
            return nn.functional.cross_entropy(logits, torch.from_numpy(labels)).item()
        targets = torch.from_numpy(self.task.space.targets(labels)).double()
        return LabelSetLoss()(logits, targets).mean().item()
