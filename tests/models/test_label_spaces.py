"""Label sets as numbers and as texts."""

import numpy as np
import pytest

from smm4h.models.label_spaces import LabelSetSpace, rule_from_dict
from smm4h.models.voting import VotingRule

SPACE = LabelSetSpace(("pain", "sleep", "mood", "never given"))


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("pain;sleep", ["pain", "sleep"]),
        (" sleep , pain ", ["sleep", "pain"]),
        ("pain|mood", ["pain", "mood"]),
        ('["pain", "never given"]', ["pain", "never given"]),
        ("never given", ["never given"]),
        ("", []),
        ("[]", []),
    ],
)
def test_texts_of_label_sets_are_read_in_every_usual_form(text, labels):
    assert SPACE.split(text) == labels
    assert SPACE.classes([SPACE.names(np.array([SPACE.code(labels)]))[0]]).tolist() == [SPACE.code(labels)]


def test_a_label_may_hold_what_separates_others():
    space = LabelSetSpace(("pain; mild", "pain, strong"))
    assert space.names(np.array([3])) == ["pain; mild|pain, strong"]
    assert space.classes(["pain; mild|pain, strong"]).tolist() == [3]


def test_a_rule_gives_the_labels_over_their_own_cuts_and_survives_its_file():
    cuts = {"pain": np.array([[0.2, 0.8]]), "sleep": np.array([[0.9, 0.1]])}
    over_pairs = VotingRule("soft", ["a", "b"], "probability", "probability", np.array([[1.0, 1.0]]), cuts=cuts)
    rule = rule_from_dict(SPACE.rule(over_pairs).to_dict())
    members = np.array([[[0.3, 0.8, 0.4, 0.5], [0.1, 0.95, 0.6, 0.2]]] * 2)
    assert rule.combine(members).tolist() == members[0].tolist()
    assert SPACE.names(rule.predict(members)) == ["pain", "sleep;mood"]
    assert "Labels with a cut of their own: pain 0.2, sleep 0.9." in rule.describe(SPACE.labels)
