"""Whatever bytes come in: tweets with findings, or one sentence; and the same tweets whole and in blocks."""

import codecs
import contextlib
import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tweet_files import OWN_DATA

from smm4h.data.dataset import read_tweets
from smm4h.data.streaming import estimate_tweets, read_blocks
from smm4h.utils.errors import InputError

NAMES = (
    "a.tsv",
    "a.csv",
    "a.jsonl",
    "a.json",
    "a.parquet",
    "a.tsv.gz",
    "a.csv.gz",
    "a.jsonl.gz",
    "a.parquet.gz",
    "a.gz",
)
SIZES = (1, 2, 3, 1000)
few = settings(
    max_examples=250, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

cells = st.one_of(
    st.sampled_from(
        ["", " ", "1", "12", "a b", "none", "side_effect", '"', '"a ""b"""', 'x"y', "é😀", "\x85", "1.0", "\r"]
    ),
    st.sampled_from(["123456789012345678", "1234567890123456000", "a,b", "a;b", "tab\there", "line\nend", "NaN", "\\"]),
    st.text(max_size=6),
)
headers = st.sampled_from(
    [
        ["id", "text", "label"],
        ["id", "author", "text"],
        ["text", "id"],
        ["id", "text", "text"],
        ["text"],
        ["", "id", "text"],
    ]
)
ids = st.integers(1, 10**19).map(str) | st.sampled_from(["7", "1234567890123456000"])
encodings = st.sampled_from(["utf-8", "utf-8-sig", "cp1252", "latin-1", "utf-16", "utf-16-le"])


@st.composite
def separated_files(draw) -> bytes:
    """A header, and rows that mostly have its width, or one field more or less, with any separator and line end."""
    header = draw(headers)
    more = draw(st.sampled_from([0, 0, 0, 1]))
    fields = [ids if name == "id" else cells for name in [""] * more + header]
    rows = draw(st.lists(st.tuples(*fields), max_size=5))
    if more:
        rows = [[str(number), *row[1:]] for number, row in enumerate(rows, start=1)]
    odd = draw(st.just([]) | st.lists(st.lists(cells, max_size=5), max_size=1))
    separator, end = draw(st.sampled_from("\t\t,,;")), draw(st.sampled_from(["\n", "\n", "\r\n", "\r"]))
    is_quoted = draw(st.booleans())
    lines = [
        separator.join('"' + cell.replace('"', '""') + '"' if is_quoted else cell for cell in row)
        for row in [header, *rows, *odd]
    ]
    text = end.join(lines) + draw(st.sampled_from(["", end, end + end]))
    return text.encode(draw(encodings), errors="ignore")


values = st.one_of(
    cells,
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.floats(),
    st.lists(st.integers(), max_size=1),
    st.just("\ud83d"),
)
objects = st.dictionaries(st.sampled_from(["id", "text", "author", "label", "x"]), values, max_size=5)
tidy_objects = st.fixed_dictionaries({"id": ids, "text": cells | st.none() | st.just("\ud83d")}, optional={"x": values})


@st.composite
def json_files(draw) -> bytes:
    """Objects, one a line or in an array, with or without a break in them."""
    content = draw(st.lists(tidy_objects, max_size=4)) + draw(st.lists(objects, max_size=1))
    if draw(st.booleans()):
        text = json.dumps(content, indent=draw(st.sampled_from([None, 1])))
    else:
        text = draw(st.sampled_from(["\n", "\r\n", "\r", "\n\n"])).join(map(json.dumps, content))
    return text[: draw(st.sampled_from([None, None, None, 40, 90]))].encode()


@st.composite
def parquet_files(draw) -> bytes:
    """Columns of any type under wanted names, and sometimes damage."""
    names = draw(st.sampled_from([["id", "text"], ["id", "text", "label"], ["id", "text", "text"], ["x"]]))
    n_rows = draw(st.integers(0, 4))
    kinds = [
        st.text(max_size=3).map(str),
        st.binary(max_size=3),
        st.integers(0, 9),
        st.floats(allow_nan=True),
        st.booleans(),
        st.datetimes(),
        st.lists(st.integers(0, 9), max_size=2),
        st.none(),
    ]
    columns = []
    for _ in names:
        kind = draw(st.sampled_from(kinds)) | st.none()
        cells = draw(st.lists(kind, min_size=n_rows, max_size=n_rows))
        columns.append(pa.array(cells))
    stream = io.BytesIO()
    pa.parquet.write_table(pa.Table.from_arrays(columns, names=names), stream)
    content = stream.getvalue()
    cut = draw(st.integers(0, len(content)))
    return content if draw(st.booleans()) else content[:cut] + draw(st.binary(max_size=3)) + content[cut:]


def check_any_outcome(path, *, labelled: bool) -> None:
    """Read a file whole and in blocks: one InputError, or the same tweets."""
    estimate_tweets([path])
    try:
        tweets, _ = read_tweets([path], OWN_DATA, labelled=labelled)
    except InputError:
        with contextlib.suppress(InputError):
            list(read_blocks([path], OWN_DATA, 2))
        return
    if labelled:
        return
    for size in SIZES:
        blocks = list(read_blocks([path], OWN_DATA, size))
        assert [tweet_id for block in blocks for tweet_id in block.ids] == tweets["id"][:]
        assert [text for block in blocks for text in block.texts] == tweets["text"][:]
        assert [block.number for block in blocks] == list(range(len(blocks)))


@pytest.mark.parametrize("labelled", [False, True])
@few
@given(
    name=st.sampled_from(NAMES),
    content=st.one_of(st.binary(max_size=60), separated_files(), json_files(), parquet_files()),
    is_misnamed=st.sampled_from([False] * 9 + [True]),
)
@example(name="a.json", content=b"[" * 5000, is_misnamed=False)
@example(name="a.jsonl", content=b'{"id": ' + b"1" * 5000 + b"}", is_misnamed=False)
@example(name="a.tsv", content=codecs.BOM_UTF16_LE + b"i", is_misnamed=False)
@example(name="a.csv", content=b"id,text\n1," + b"x" * 200_000, is_misnamed=False)
def test_any_bytes_are_tweets_or_a_sentence(tmp_path, name, content, is_misnamed, labelled):
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") != is_misnamed else content)
    check_any_outcome(path, labelled=labelled)


@few
@given(content=separated_files(), name=st.sampled_from(["a.tsv", "a.csv"]))
def test_any_separated_file_is_the_same_whole_and_in_blocks(tmp_path, content, name):
    (tmp_path / name).write_bytes(content)
    check_any_outcome(tmp_path / name, labelled=False)


@few
@given(content=json_files())
def test_any_json_file_is_the_same_whole_and_in_blocks(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    check_any_outcome(tmp_path / "a.json", labelled=False)


@few
@given(content=parquet_files())
def test_any_parquet_file_is_the_same_whole_and_in_blocks(tmp_path, content):
    (tmp_path / "a.parquet").write_bytes(content)
    check_any_outcome(tmp_path / "a.parquet", labelled=False)
