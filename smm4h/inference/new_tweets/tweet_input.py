"""The tweets of a prediction: their files, how these are read, and the columns that the output has."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smm4h.config.task import Task
from smm4h.data.readers.files import name_of
from smm4h.data.readers.tables import Findings
from smm4h.data.streaming import Block, header_of, inputs_of, leave_out_labels, read_blocks
from smm4h.inference.new_tweets.output_columns import (
    OutputColumns,
    all_columns,
    is_passed,
    output_columns,
    predicted_names,
)
from smm4h.inference.partial_predictions import reading_of


@dataclass(frozen=True)
class TweetInput:
    """Tweets to predict.

    Args:
        columns: of the output.
        block: tweets that are read at once.
        notices: on files that were left out, and on columns.
        findings: on what has been read so far.
    """

    files: Sequence[Path]
    task: Task
    columns: OutputColumns
    block: int
    encoding: str | None = None
    notices: Sequence[str] = ()
    findings: Findings = field(default_factory=Findings)

    @classmethod
    def find(
        cls,
        given: str,
        private: Path,
        task: Task,
        output: str,
        *,
        asked: Sequence[str],
        keep_columns: bool = False,
        names: Sequence[str] | None = None,
        block: int,
        encoding: str | None = None,
    ) -> "TweetInput":
        """Return the tweets of a file, a folder or a pipe; headers are read only where they are needed.

        Args:
            given: the input as it was named.
            private: folder for a copy of standard input.
            asked, names: see `output_columns.output_columns`.
            keep_columns: whether all columns of the input are passed on.
        """
        predicted = list(predicted_names(task, names).values())
        files, left_out = leave_out_labels(given, inputs_of(given, private), output, task, predicted)
        needs_headers = keep_columns or any(map(is_passed, asked))
        headers = {name_of(file): header_of(file, task, encoding) for file in files} if needs_headers else {}
        columns = output_columns(asked, all_columns(headers) if keep_columns else [], headers, task, names)
        return cls(files, task, columns, block, encoding, [*left_out, *columns.notices])

    @property
    def holds_tweets(self) -> bool:
        """Whether the output has the tweets' texts."""
        return bool({*self.task.columns.text, *self.task.columns.context}.intersection(self.columns.passed))

    def blocks(self, *, with_columns: bool = True) -> Iterator[Block]:
        """Return an iterator over the tweets, anew at each call; tweets without ids are numbered."""
        passed = self.columns.passed if with_columns else ()
        options = {"number_missing_ids": True, "findings": self.findings, "passed": passed}
        return read_blocks(self.files, self.task, self.block, self.encoding, **options)

    def reading(self, members: Sequence[str]) -> dict[str, Any]:
        """Return how the tweets are read, and by which members, for the comparison of a resume."""
        reading = reading_of(self.task, self.encoding, self.block, self.columns.passed)
        return reading | ({"members": list(members)} if members else {})
