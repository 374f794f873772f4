"""What the user can mend: one sentence, exit code 2, no traceback."""

import difflib
import errno
import os
import sys
import time
from collections.abc import Callable, Iterable

GRACE = 5  # seconds
BEYOND_US = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT}


class InputError(ValueError):
    """Input that only the user can mend; its text is one sentence with the place and the remedy."""


def nearest(name: str, known: Iterable[str]) -> str:
    """` (did you mean X?)`, or nothing where no known name is close."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean {close[0]}?)" if close else ""


def run_main(main: Callable[[], None]) -> None:
    """Calls a script's main; an `InputError` becomes its sentence on stderr and exit code 2.

    Of several processes that were launched together, and so trip over the same input, the first one speaks.
    """
    first = int(os.environ.get("RANK", "0")) == 0  # read before main() drops the launcher's environment
    try:
        main()
    except InputError as error:
        if not first:
            time.sleep(GRACE)  # the launcher ends all processes with the first to fail, and it should be the speaker
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # `| head` closed the pipe: nothing is wrong
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if error.errno not in BEYOND_US:
            raise
        where = f" ({error.filename})" if error.filename else ""
        print(
            f"error: {error.strerror}{where}; make room or get the right to write there, then repeat", file=sys.stderr
        )
        sys.exit(2)
    except KeyboardInterrupt:
        print("\nstopped; what is done is kept, the same command goes on from there", file=sys.stderr)
        sys.exit(130)
