"""The short fault campaign; `make faults` is the long one."""

import pytest
from faults import campaign


@pytest.mark.slow
def test_ten_kills_leave_no_trace_in_the_result(finished_job, tiny_encoder, tmp_path):
    hits = campaign(tmp_path, tiny_encoder, finished_job.folder, 10, seed=3)
    assert hits.total() - hits["jobs"] == 10
