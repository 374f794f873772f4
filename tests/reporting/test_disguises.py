"""Leak check: tweets, ids, names and tokens in other words, and what was public before."""

import base64
import html
import json
import quopri
import unicodedata
from urllib.parse import quote

import numpy as np
import pytest
from datasets import Dataset

from smm4h.reporting.leak_check.fingerprints import FORMS, TweetFingerprints, phrase_hashes, word_hashes
from smm4h.reporting.leak_check.privacy import LeakCheck, secrets_of
from smm4h.utils.errors import InputError

TWEET = "Après Zürich my naïve café doctor said stop"
CHINESE = "我昨天吃了两片药今天头还是很痛啊"
IDS = ["8948984924455068883", "3f2b8c1e-77aa-4d0e-9b61-5a1d3c2e9f00", "2021.07.12:4471", "tw-55x81q"]
NAMES = ["Jane van Doe", "mary.smith", "li-wei-92", "kate@home.example", "bob_the_3rd"]


@pytest.fixture(scope="module")
def fingerprints() -> TweetFingerprints:
    texts = [TWEET, CHINESE, "1 2 3 4 5", "a b c d e", "says @ana.maria hi", "short one here"]
    ids = [*IDS, "1000001", "1000002"]
    return TweetFingerprints.from_tables(
        [Dataset.from_dict({"text": texts, "id": ids, "user": [*NAMES, "somebody"]})],
    )


def check(fingerprints: TweetFingerprints, folder, content: bytes | str, name: str = "config.json") -> str:
    """Return what the check says of a file with this content, or an empty string."""
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    try:
        LeakCheck(fingerprints, ["sources"]).check(folder, [folder / name])
    except InputError as error:
        return str(error)
    return ""


TOLD = {
    "decomposed": unicodedata.normalize("NFD", TWEET),
    "full width": TWEET.translate({n: n + 0xFEE0 for n in range(ord("a"), ord("z") + 1)}),
    "underscores": TWEET.replace(" ", "_"),
    "percent": quote(TWEET),
    "plus": TWEET.replace(" ", "+"),
    "entities": TWEET.encode("ascii", "xmlcharrefreplace").decode(),
    "json": json.dumps({"a": TWEET}),
    "utf-16": TWEET.encode("utf-16"),
    "utf-16, no mark": TWEET.encode("utf-16-be"),
    "utf-32": TWEET.encode("utf-32"),
    "base64": base64.b64encode(TWEET.encode()),
    "base64 for URLs": b'{"a": "' + base64.urlsafe_b64encode(TWEET.encode()).rstrip(b"=") + b'"}',
    "base64 in lines": base64.encodebytes((TWEET * 3).encode()),
    "base64 of UTF-16": base64.b64encode(TWEET.encode("utf-16")),
    "percent in base64": base64.b64encode(quote(TWEET).encode()),
    "hexadecimal": f'{{"a": "{TWEET.encode().hex()}"}}',
    "base32": base64.b32encode(TWEET.encode()),
    "escapes of bytes": "".join(c if c.isascii() else "".join(f"\\x{b:02x}" for b in c.encode()) for c in TWEET),
    "octal escapes": "".join(c if c.isascii() else "".join(f"\\{b:03o}" for b in c.encode()) for c in TWEET),
    "quoted-printable": quopri.encodestring(TWEET.encode(), quotetabs=True),
    "soft hyphens": TWEET.replace("t", "t\u00ad"),
    "joiners": "\u200b".join(TWEET),
    "a list of words": json.dumps(TWEET.split()),
    "entities twice": html.escape(TWEET.encode("ascii", "xmlcharrefreplace").decode()),
    "a part": "x naïve-café-doctor-said-stop x",
    "without spaces": f"x{CHINESE[3:14]}x",
    "a short one": "Short... one: HERE",
}


@pytest.mark.parametrize("told", TOLD.values(), ids=TOLD)
def test_a_tweet_is_found_in_other_words(fingerprints, tmp_path, told):
    assert "holds words of a tweet" in check(fingerprints, tmp_path, told)


IN_BASE64 = base64.b64encode(IDS[0].encode()).decode()


@pytest.mark.parametrize(
    "told",
    [
        *IDS,
        *(
            f"tweet_{IDS[0]}",
            f"id{IDS[0]}x",
            f"a/{IDS[0]}.json",
            f"v.{IDS[0]}",
            base64.b64encode(IDS[0].encode()).decode(),
        ),
        *(IDS[1].upper(), IDS[1].replace("-", "_")),
        *(f"{int(IDS[0]):x}", f"0x{int(IDS[0]):X}", f"{int(IDS[0]):,}", f"{int(IDS[0]):_}", IDS[0].encode().hex()),
    ],
)
def test_an_id_is_found(fingerprints, tmp_path, told):
    assert "holds a tweet's id" in check(fingerprints, tmp_path, f'{{"a": "{told}"}}')


def test_an_id_is_found_in_the_name_of_a_folder(fingerprints, tmp_path):
    folder = tmp_path / "members" / f"of-{IDS[0]}"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    with pytest.raises(InputError, match="the name of a file in members holds a tweet's id") as refused:
        LeakCheck(fingerprints, ["sources"]).check(tmp_path, [folder / "config.json"])
    assert IDS[0] not in str(refused.value)


@pytest.mark.parametrize(
    "told", [*NAMES, "JANE  VAN DOE", "jane_van_doe", "@Mary.Smith", "@ana.maria", "ana.maria", "by kate@home.example!"]
)
def test_a_users_name_is_found(fingerprints, tmp_path, told):
    assert "holds a user's name" in check(fingerprints, tmp_path, f'{{"a": "{told}"}}')


SECRETS = [  # in parts, or this file could not be pushed
    "AKIA" + "IOSFODNN7EXAMPLE",
    "ASIA" + "IOSFODNN7EXAMPLE",
    "aws_secret_access_key = " + "wJalrXUtnFEMI/K7MDENG/" + "bPxRfiCYEXAMPLEKEY",
    "AIza" + "SyA-1234567890abcdefghijklmnopqrstu",
    "ya29." + "a0AfH6SMBx1234567890abcdef",
    "GOCSPX-" + "abcdefghij1234567890abcd",
    "eyJhbGciOiJIUzI1NiJ9." + "eyJzdWIiOiIxMjM0NTY3ODkwIn0." + "dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
    "-----BEGIN " + "RSA PRIVATE KEY-----",
    "https://me:" + "s3cr3t@example.org/a",
    "A" * 22 + "MLheAAAAAAA0%2BuSeid%2BULvsea4JtiGRiSDSJSI",
    "dop_v1_" + "0123456789abcdef" * 4,
    "12345678:" + "AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw0",
    "https://hooks." + "slack.com/services/T0001/B0001/abcdefghij1234",
    "Authorization: Bearer " + "0123456789abcdefghijkl",
    "AccountKey=" + "abcdefghij1234567890klmnop==",
    "neptune_api_token: " + "abcdefghij1234567890klmnop",
]


@pytest.mark.parametrize("secret", SECRETS)
def test_a_token_is_found_in_plain_and_in_base64(fingerprints, tmp_path, secret):
    for told in (secret, base64.b64encode(secret.encode()).decode()):
        assert "holds a secret token" in check(fingerprints, tmp_path, f'{{"a": "{told}"}}')


def test_a_secret_of_the_environment_is_known_by_its_variables_name():
    environment = {"MY_API_KEY": "s" * 16 + "1", "SSH_KEY": "~/.ssh/id_rsa_1234567", "A_KEY": "2", "HF_TOKEN": "s" * 8}
    assert {"s" * 16 + "1", "s" * 8} <= (found := set(secrets_of(environment)))
    assert not found & {environment["SSH_KEY"], environment["A_KEY"]}


@pytest.mark.parametrize("told", ["pad_token: 12345678901234567890", "bearer of good news", "secret key = none at all"])
def test_a_word_for_a_secret_is_none(fingerprints, tmp_path, told):
    assert check(fingerprints, tmp_path, told) == ""


def test_numbers_and_letters_in_a_row_are_no_tweet(fingerprints, tmp_path):
    for told in ("1 2 3 4 5 6", "a b c d e f", '{"1": "a", "2": "b", "3": 4, "5": 6}', "0.1000001", "12345678"):
        assert check(fingerprints, tmp_path, told) == ""


def test_a_line_is_named_and_a_remedy(fingerprints, tmp_path):
    message = check(fingerprints, tmp_path, b"{\n\n" + base64.b64encode(TWEET.encode()) + b"\n}")
    assert message.startswith(
        "config.json, line 3 holds words of a tweet, which must not leave this machine; nothing was"
    )
    assert message.endswith("take it out of the file that this one was copied from")
    assert TWEET[:5] not in message


def test_what_a_tokenizer_shares_with_its_encoders_own_is_no_leak(fingerprints, tmp_path):
    """Words stand in its vocabulary as in a tweet."""
    own, published = tmp_path / "own", tmp_path / "published"
    model = {"merges": ["short one", "here x"]}
    for folder in (own, published):
        folder.mkdir()
        (folder / "tokenizer.json").write_text(json.dumps({"model": model, "truncation": None}))
    files = [published / "tokenizer.json"]
    leaks = LeakCheck(fingerprints, ["sources"])
    with pytest.raises(
        InputError, match=r"tokenizer\.json, line 1 holds words of a tweet.*bring the encoder .*me/bert"
    ):
        leaks.check(published, files, lambda folder: ("me/bert", None))
    leaks.check(published, files, lambda folder: ("me/bert", own))
    files[0].write_text(json.dumps({"model": model, "truncation": {"max_length": 64}}))
    leaks.check(published, files, lambda folder: ("me/bert", own))
    files[0].write_text(json.dumps({"model": model, "note": TWEET}))
    with pytest.raises(InputError, match=r"tokenizer\.json, line 1 holds words of a tweet"):
        leaks.check(published, files, lambda folder: ("me/bert", own))


def test_fingerprints_of_older_versions_are_read_and_searched_for(tmp_path):
    words, form = TWEET.lower().split(), FORMS[1]
    phrases, none = np.sort(form.phrases(word_hashes(words), 5)), np.zeros(0, dtype=np.uint64)
    np.savez_compressed(tmp_path / "marks.npz", phrases=phrases, ids=word_hashes([IDS[0]]), names=none)
    old = TweetFingerprints.read(tmp_path / "marks.npz")
    assert "holds words of a tweet" in check(old, tmp_path, TWEET)
    assert "holds a tweet's id" in check(old, tmp_path, IDS[0])
    assert check(old, tmp_path, "nothing of the kind") == ""


def test_fingerprints_come_back_as_they_were_written(fingerprints, tmp_path):
    fingerprints.write(tmp_path / "marks.npz")
    again = TweetFingerprints.read(tmp_path / "marks.npz")
    for name, value in vars(fingerprints).items():
        np.testing.assert_array_equal(getattr(again, name), value)


def test_neighbouring_phrases_cannot_be_solved_for_words():
    """From polynomials of word hashes they can: two phrases that overlap differ by two words of a dictionary."""
    words = TWEET.lower().split()
    hashes, (first, last) = word_hashes(words), word_hashes([words[0], words[5]])
    for number, is_solved in ((1, True), (2, False)):
        phrases = FORMS[number].phrases(hashes, 5)
        step = np.uint64(0x9E3779B97F4A7C15)
        with np.errstate(over="ignore"):
            five = np.uint64(5)
            of_first = step * step * step * step * step * first
            start = five * step * step * step * step * step
            difference = phrases[1] - start - (phrases[0] - start) * step + of_first
        assert (difference == last) == is_solved
    assert len(phrase_hashes([TWEET])) == len(words) - 4
