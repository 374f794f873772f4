"""What the user can mend: one sentence, exit code 2, no traceback."""

import difflib
import errno
import os
import sys
import time
from collections.abc import Callable, Iterable

GRACE = 5  # seconds
ASK_AGAIN = 75  # exit code of a job that was stopped from outside: EX_TEMPFAIL of sysexits.h, "try again later"
BEYOND_US = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT}


class InputError(ValueError):
    """Input that only the user can mend; its text is one sentence with the place and the remedy."""


class JobFailed(RuntimeError):
    """Work that could not be done; its text is the last sentence of the job."""


class Stopped(BaseException):
    """SIGTERM came: what has been made is saved, and the process is to end. No `except Exception` may swallow it."""


def nearest(name: str, known: Iterable[str]) -> str:
    """` (did you mean X?)`, or nothing where no known name is close."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean {close[0]}?)" if close else ""


def user_message(error: BaseException) -> str | None:
    """What to tell the user of an error that only the user can mend: bad input, no room, no right; else None."""
    if isinstance(error, InputError):
        return str(error)
    text = str(error)
    if isinstance(error, OSError) and error.errno in BEYOND_US:
        where = f" ({error.filename})" if error.filename else ""
        return f"{error.strerror}{where}; make room or get the right to write there, then repeat"
    if os.strerror(errno.ENOSPC) in text or "PytorchStreamWriter failed writing" in text:  # safetensors, torch.save
        return f"{os.strerror(errno.ENOSPC)}; make room, then repeat"
    return None


def run_main(main: Callable[[], None]) -> None:
    """Calls a script's main; an error that the user can mend becomes its sentence on stderr and exit code 2.

    Of several processes that were launched together, and so trip over the same input, the first one speaks.
    """
    first = int(os.environ.get("RANK", "0")) == 0  # read before main() drops the launcher's environment
    try:
        main()
    except JobFailed as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:  # `| head` closed the pipe: nothing is wrong
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Stopped:
        print("stopped from outside; what is done is kept, the same command goes on from there", file=sys.stderr)
        sys.exit(ASK_AGAIN)
    except KeyboardInterrupt:
        print("\nstopped; what is done is kept, the same command goes on from there", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        sentence = user_message(error)
        if sentence is None:
            raise
        if not first:
            time.sleep(GRACE)  # the launcher ends all processes with the first to fail, and it should be the speaker
        print(f"error: {sentence}", file=sys.stderr)
        sys.exit(2)
