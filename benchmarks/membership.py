"""How well a model's training tweets are told from others of their source by its answers (membership inference).

python benchmarks/membership.py MODEL --task tasks/task5.yaml --seen train.tsv --unseen other.tsv

MODEL is all that `smm4h.load` takes: a job's folder, a published ensemble, a student. Both files are labelled. Printed
is the area under the curve of two attacks, where 0.5 is chance: by the probability of the label that the model gives
(confidence), and by that of the gold label (loss; Yeom et al. 2018, "Privacy risk in machine learning"). With each
area stands what chance alone stays within in 19 of 20 cases.
"""

import argparse

import numpy as np
from sklearn.metrics import roc_auc_score

import smm4h
from smm4h.config.task import Task
from smm4h.config.task_file import read_task
from smm4h.data.dataset import column, read_tweets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--task", required=True)
    parser.add_argument("--seen", nargs="+", required=True, help="labelled tweets that the model was trained on")
    parser.add_argument("--unseen", nargs="+", required=True, help="labelled tweets of the same source")
    arguments = parser.parse_args()
    task, model = read_task(arguments.task), smm4h.load(arguments.model)
    seen, unseen = (signs(model, files, task) for files in (arguments.seen, arguments.unseen))
    for attack in seen:
        print(f"{attack:10} {membership_area(seen[attack], unseen[attack])}")


def signs(model, files: list[str], task: Task) -> dict[str, np.ndarray]:
    """Return for each attack a sign (n_tweets,), which is expected to be higher for training tweets."""
    tweets, _ = read_tweets(files, task, labelled=True)
    table = model.predict(column(tweets, "text").to_pylist())
    probabilities = table[[f"p_{label}" for label in task.labels]].to_numpy()  # (n_tweets, n_classes)
    gold = column(tweets, "label").to_numpy()
    return {"confidence": probabilities.max(axis=1), "loss": probabilities[np.arange(len(gold)), gold]}


def membership_area(seen: np.ndarray, unseen: np.ndarray) -> str:
    """Return the area under the curve of seen (n_seen,) against unseen signs (n_unseen,), and chance's, as text."""
    is_seen = np.repeat([1, 0], [len(seen), len(unseen)])
    area = roc_auc_score(is_seen, np.concatenate([seen, unseen]))
    deviation = np.sqrt((len(is_seen) + 1) / (12 * len(seen) * len(unseen)))  # of the Mann-Whitney statistic
    return f"{area:.3f} (chance: 0.5 +- {1.96 * deviation:.3f}; {len(seen)} seen, {len(unseen)} unseen tweets)"


if __name__ == "__main__":
    main()
