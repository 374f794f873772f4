"""The training part of a run."""

import numpy as np

from smm4h.data.tokenization import token_table
from smm4h.training.run_data import PseudoLabels, training_part


def test_no_held_out_tweet_is_in_its_training_part(prepare_job):
    job = prepare_job()
    for run in job.runs[:5]:
        labelled = token_table(job.data.token_folder, "labelled", run.member)
        held_out = np.flatnonzero(job.data.held_out(run))
        part = training_part(run, job.data, None)
        assert not set(part["row"]) & set(held_out.tolist())
        assert len(part) + len(held_out) == len(labelled) == 60
        assert part["labels"][:] == [labelled["labels"][row] for row in part["row"]]


def test_pseudo_labelled_tweets_join_the_training_part_with_their_voted_labels(prepare_job):
    job = prepare_job()
    run, data = job.runs[30], job.data
    pseudo = PseudoLabels(rows=np.array([3, 17]), labels=np.array([2, 0]))
    plain, joined = training_part(run, data, None), training_part(run, data, pseudo)
    assert joined["input_ids"][: len(plain)] == plain["input_ids"][:]
    assert joined["labels"][len(plain) :] == [2, 0]
    test_tokens = token_table(data.token_folder, "test", run.member)
    assert joined["input_ids"][len(plain) :] == [test_tokens[3]["input_ids"], test_tokens[17]["input_ids"]]
