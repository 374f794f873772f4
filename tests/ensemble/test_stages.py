"""The final vote of a job."""

import numpy as np

from smm4h.data.outputs.predictions import read_predictions


def test_the_final_vote_is_the_majority_of_the_members_mean_probabilities(finished_job):
    members = sorted({path.parent.parent.name for path in finished_job.folder.glob("*/fold-0/DONE")})
    means = []
    for member in members:
        folds = [
            read_predictions(finished_job.folder / member / f"fold-{i}" / "test.parquet").probabilities
            for i in range(5)
        ]
        means.append(np.mean(folds, axis=0, dtype=float))
    means = np.stack(means)
    expected = []
    for tweet in range(means.shape[1]):
        counts = np.bincount(means[:, tweet].argmax(axis=1), minlength=3)
        leading = np.flatnonzero(counts == counts.max())
        expected.append(str(1 + leading[means[:, tweet].mean(axis=0)[leading].argmax()]))
    lines = (finished_job.folder / "votes" / "final.tsv").read_text().splitlines()[1:]
    assert [line.split("\t")[1] for line in lines] == expected
