"""The padding collator against that of transformers."""

import torch
import transformers
from transformers import DataCollatorWithPadding

from smm4h.models.batching import PaddingCollator


def test_padding_is_that_of_transformers(tiny_encoder):
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_encoder)
    rows = [{"input_ids": list(range(5, 5 + n)), "labels": n % 3} for n in (4, 9, 1)]
    ours, theirs = PaddingCollator(tokenizer.pad_token_id)(rows), DataCollatorWithPadding(tokenizer)(rows)
    assert ours.keys() == set(theirs.keys())
    for name, values in ours.items():
        assert torch.equal(values, theirs[name])
    assert "labels" not in PaddingCollator(0)([{"input_ids": [1, 2]}])
