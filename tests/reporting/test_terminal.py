"""What a job prints."""

from smm4h.reporting.terminal import print_pseudo_label_counts


def test_folds_that_get_no_pseudo_label_are_named(call):
    some = {"drawn": 5, "held_out": 0, "doubted": 0, "accepted": {"1": 2, "3": 3}}
    none = {**some, "doubted": 5, "accepted": {"1": 0, "3": 0}}

    def printed(counts) -> str:
        return call(lambda: print_pseudo_label_counts("pseudo labels", counts)).out

    named = "no pseudo label is accepted for fold-0, refit, whose learners have the labelled tweets alone"
    assert named in printed({"fold-0": none, "fold-1": some, "refit": none})
    empty_sets = {**some, "accepted": {"1": 0, "3": 0}}
    assert "no pseudo label is accepted" not in printed({"fold-0": empty_sets})
    assert "no pseudo label is accepted" not in printed({"fold-0": some, "fold-1": some})
