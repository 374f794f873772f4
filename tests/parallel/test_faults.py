"""The short fault campaign; `make faults` is the long one."""

import pytest
from conftest import train_here
from faults import campaign, stop_campaign, stopped_words, stops_of


@pytest.mark.slow
def test_five_kills_leave_no_trace_in_the_result(finished_job, tiny_encoder, tmp_path):
    hits = campaign(tmp_path, tiny_encoder, finished_job.folder, 5, seed=3)
    assert hits.total() - hits["jobs"] == 5


@pytest.mark.slow
def test_processes_that_were_stopped_beyond_their_leases_leave_no_trace_either(tiny_encoder, tmp_path, monkeypatch):
    monkeypatch.setenv("SMM4H_LEASE_SECONDS", "90")  # which the campaign changes, and this puts back
    undisturbed = tmp_path / "undisturbed"
    assert train_here(stopped_words(tiny_encoder, undisturbed)).code == 0
    hits = stop_campaign(tmp_path, tiny_encoder, undisturbed, 3, seed=3)
    assert stops_of(hits) - hits["jobs"] == 3
