"""Texts to token ids: second texts, truncation and windows."""

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from smm4h.config import arguments
from smm4h.models.batching import PaddingCollator
from smm4h.models.encoding import TRUNCATIONS, TextEncoder

LETTERS = "abcdefghijklmnopqrstuvwxyz"


@pytest.fixture(scope="module")
def tokenizer(tiny_encoder):
    return AutoTokenizer.from_pretrained(tiny_encoder)


def words(tokenizer, row) -> str:
    """The tokens of a row, letters without their marks."""
    return " ".join(tokenizer.convert_ids_to_tokens(row["input_ids"])).replace("##", "")


def test_a_short_pair_is_encoded_as_the_tokenizer_does(tokenizer):
    texts, contexts = ["my son", "", "the [SEP] baby"], ["a baby", "my son", ""]
    rows, cut = TextEncoder(tokenizer, 20).encode(texts, contexts)
    expected = tokenizer(texts, contexts)
    assert [row["input_ids"] for row in rows] == expected["input_ids"]
    batch, padded = PaddingCollator(tokenizer.pad_token_id)(rows), tokenizer.pad(expected, return_tensors="pt")
    assert all(torch.equal(batch[name], padded[name]) for name in ("input_ids", "attention_mask", "token_type_ids"))
    assert cut.count == 0


def test_of_a_long_pair_the_text_is_cut_and_the_second_text_keeps_its_room(tokenizer):
    encoder = TextEncoder(tokenizer, 13)
    rows, cut = encoder.encode([LETTERS, "a b", LETTERS], ["my son", LETTERS, LETTERS])
    assert words(tokenizer, rows[0]) == "[CLS] a b c d e f g h [SEP] my son [SEP]"
    assert words(tokenizer, rows[1]) == "[CLS] a b [SEP] a b c d e f g h [SEP]"
    assert words(tokenizer, rows[2]) == "[CLS] a b c d e [SEP] a b c d e [SEP]"  # half of the tokens each
    assert [row["second"] for row in rows] == [[10], [4], [7]]
    assert (cut.count, cut.longest, cut.max_length) == (3, 55, 13)


@pytest.mark.parametrize("special", [{}, {"bos_token": "[CLS]"}])
def test_a_line_break_stands_between_two_texts_where_the_tokenizer_has_nothing_of_its_own(special):
    """As those of Qwen and GPT-2; without it the second text of a long pair would be cut off, and no one told."""
    byte_level = Tokenizer(models.BPE())
    byte_level.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    byte_level.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=["[CLS]"])
    byte_level.train_from_iterator([], trainer)
    if special:
        byte_level.post_processor = processors.TemplateProcessing(
            single="[CLS] $A", pair="[CLS] $A $B:1", special_tokens=[("[CLS]", 0)]
        )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_level, **special)
    begin = "[CLS]" if special else ""
    n_begin = len(special)
    rows, cut = TextEncoder(tokenizer, 13 + n_begin).encode([LETTERS, "ab"], ["my son", "a baby"])
    assert [tokenizer.decode(row["input_ids"]) for row in rows] == [f"{begin}abcdef\nmy son", f"{begin}ab\na baby"]
    assert [row["second"] for row in rows] == [[7 + n_begin], [3 + n_begin]]
    assert (cut.count, cut.longest) == (1, 33 + n_begin)
    (row,), _ = TextEncoder(tokenizer, 13 + n_begin, "windows").encode([LETTERS], ["my son"])
    windows = tokenizer.decode(row["input_ids"]).split("\nmy son")
    assert windows[:2] == [f"{begin}abcdef", f"{begin}fghijk"]


def test_texts_alone_are_truncated_as_before(tokenizer):
    texts = [LETTERS, "my son", ""]
    rows, cut = TextEncoder(tokenizer, 8).encode(texts)
    assert [row["input_ids"] for row in rows] == tokenizer(texts, truncation=True, max_length=8)["input_ids"]
    assert (cut.count, cut.longest) == (1, 28)


def test_no_texts_have_no_rows(tokenizer):
    assert TextEncoder(tokenizer, 8).encode([], [])[0] == []


@pytest.mark.parametrize(
    ("truncation", "expected"),
    [
        ("head", "[CLS] a b c d e f g h [SEP]"),
        ("tail", "[CLS] s t u v w x y z [SEP]"),
        ("head_tail", "[CLS] a b u v w x y z [SEP]"),
    ],
)
def test_truncation_says_which_end_of_a_long_text_is_read(tokenizer, truncation, expected):
    rows, cut = TextEncoder(tokenizer, 10, truncation).encode([LETTERS, "my son"])
    assert words(tokenizer, rows[0]) == expected
    assert words(tokenizer, rows[1]) == "[CLS] my son [SEP]"
    assert (cut.count, cut.longest) == (1, 28)


def test_windows_cover_a_text_and_overlap_or_leave_counted_gaps(tokenizer):
    rows, cut = TextEncoder(tokenizer, 10, "windows").encode([LETTERS, "my son"], None)
    windows = words(tokenizer, rows[0]).split("[CLS]")[1:]
    assert [window.split()[0] for window in windows] == ["a", "g", "m", "s"]
    assert all(len(window.split()) == 9 for window in windows)
    assert rows[0]["windows"] == [10] * 4
    assert rows[1]["windows"] == [4]
    assert cut.count == 0
    rows, cut = TextEncoder(tokenizer, 10, "windows", max_windows=2).encode([LETTERS])
    assert words(tokenizer, rows[0]) == "[CLS] a b c d e f g h [SEP] [CLS] s t u v w x y z [SEP]"
    assert cut.count == 1


def test_a_batch_of_windows_has_a_line_for_each(tokenizer):
    rows, _ = TextEncoder(tokenizer, 12, "windows").encode([LETTERS, "my son"], ["a", "the baby"])
    batch = PaddingCollator(tokenizer.pad_token_id)(rows)
    n_windows = len(rows[0]["windows"])
    assert next(iter(batch)) == "window_counts"
    assert batch["window_counts"].tolist() == [n_windows, 1]
    assert batch["input_ids"].shape == batch["token_type_ids"].shape == (n_windows + 1, 12)
    expected = tokenizer("my son", "the baby")
    assert batch["input_ids"][-1][:7].tolist() == expected["input_ids"]
    assert batch["token_type_ids"][-1].tolist() == expected["token_type_ids"] + [0] * 5


def test_the_setting_names_what_the_encoder_knows():
    assert arguments.TRUNCATIONS == TRUNCATIONS
