"""Other votes over a finished job."""

from smm4h.cli.vote import main
from smm4h.data.outputs.label_files import read_labels


def test_another_vote_of_a_job_is_fitted_and_scored_out_of_fold(tuned_job, tmp_path, call):
    scores = {}
    for method in ("hard", "soft", "weighted", "stacked"):
        words = (tuned_job.folder, "--method", method, "--output", tmp_path / f"{method}.tsv")
        result = call(main, *words, "--decision", "tuned", "--members", "counts", "svm")
        assert result.code == 0, result.err
        scores[method] = float(result.out.split("out of fold, f1 ")[1].split()[0])
        assert len(read_labels(tmp_path / f"{method}.tsv").ids) == 40
    assert min(scores.values()) > 0.5
    words = (tuned_job.folder, "--method", "hard", "--decision", "argmax")
    plain = call(main, *words, "--output", tmp_path / "plain.tsv")
    assert "hard vote, ties to the probability" in plain.out
