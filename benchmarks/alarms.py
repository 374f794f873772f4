"""How often predict.py would warn of new tweets that are like the labelled ones, over many draws of real tweets.

python benchmarks/alarms.py --task tasks/task2_en.yaml --data_dir DIR --output_dir runs/alarms

Arguments, draws and classifiers are those of `benchmarks/promises.py`. Of each draw's other tweets, `SAMPLES` samples
of several sizes are compared with the labelled ones: predicted labels, lengths, and unknown words.
"""

import numpy as np
from datasets import concatenate_datasets
from promises import draw_rows, predict_draw, read_all, read_arguments

from smm4h.config.task import Task
from smm4h.config.task_file import read_task
from smm4h.data.dataset import column, read_tweets
from smm4h.ensemble.decisions.fit import adjust_for_averaging
from smm4h.ensemble.fitting import VotingConfig
from smm4h.inference.new_tweets.drift import differences
from smm4h.inference.new_tweets.profile import (
    TweetProfile,
    histogram_of_lengths,
    histogram_of_shares,
    profile_of,
    vocabulary_of,
)
from smm4h.models.voting import MEANS
from smm4h.training.words.fitting import CLASSIFIERS
from smm4h.utils.console import silence_libraries

SAMPLES, SIZES = 5, (100, 400, 1000)
MEMBERS = list(CLASSIFIERS)


def main() -> None:
    arguments = read_arguments()
    silence_libraries()
    task = read_task(arguments.task)
    counts, labels = read_all(task, arguments.data_dir)
    texts = np.array(read_texts(task, arguments.data_dir), dtype=object)
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    for decision in ("argmax", "tuned"):
        found: dict[int, list[list[str]]] = {size: [] for size in SIZES}
        for seed in range(arguments.draws):
            draw = predict_draw(seed, counts, labels, task, arguments)
            chosen, rest = draw_rows(seed, labels, task, arguments)
            expected, given = labels_of(draw, decision, task, arguments.method)
            labelled, vocabulary = reference(texts[chosen].tolist(), expected)
            rng = np.random.default_rng(seed)
            for size in SIZES:
                for _ in range(SAMPLES):
                    rows = rng.choice(len(rest), min(size, len(rest)), replace=False)
                    new = profile_of(texts[rest[rows]].tolist(), given[rows].tolist(), vocabulary)
                    found[size].append([difference.what for difference in differences(labelled, new)])
        for size, warnings in found.items():
            n_warned = sum(map(bool, warnings))
            first = next(filter(None, warnings), [])
            print(f"{decision}, {size} new tweets: {n_warned} of {len(warnings)} samples warned of {first}")


def read_texts(task: Task, folder) -> list[str]:
    """Return all texts in the order of `promises.read_all`."""
    paths = {part: folder / files[0].name for part, files in task.files.items()}
    labelled, _ = read_tweets([paths["training"], paths["validation"]], task, labelled=True)
    test, _ = read_tweets([paths["test"]], task, labelled=False)
    return column(concatenate_datasets([labelled.remove_columns("label"), test]), "text").to_pylist()


def labels_of(draw: dict[str, np.ndarray], decision: str, task: Task, method: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels of the labelled tweets out of fold (n_tweets,), and those of the other tweets (n_others,)."""
    config = VotingConfig.for_task(task, method, decision, "probability")
    out_of_fold = config.predict_out_of_fold(MEMBERS, draw["out_of_fold"], draw["gold"])
    rule = config.fit_rule(MEMBERS, draw["out_of_fold"], draw["gold"])
    means = np.stack([MEANS[rule.mean](draw["folds"][:, member]) for member in range(len(MEMBERS))])
    rule = rule if rule.is_argmax else adjust_for_averaging(rule, draw["folds"], means)
    names = np.array(task.labels, dtype=object)
    return names[out_of_fold], names[rule.predict(means)]


def reference(texts: list[str], labels: np.ndarray):
    """Return the profile of labelled tweets, as a job stores it, and their words."""
    vocabulary, unknown = vocabulary_of(texts)
    names, counts = np.unique(labels.astype(str), return_counts=True)
    by_label = dict(zip(names.tolist(), counts.tolist(), strict=True))
    profile = TweetProfile(len(texts), by_label, histogram_of_lengths(texts), histogram_of_shares(unknown))
    return profile, vocabulary


if __name__ == "__main__":
    main()
