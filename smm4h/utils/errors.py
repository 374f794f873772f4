"""Errors that the user can mend: one sentence on stderr, exit code 2, no traceback."""

import difflib
import errno
import os
import sys
import time
from collections.abc import Callable, Iterable

GRACE_SECONDS = 5  # that other ranks wait for rank 0 to print an error
ASK_AGAIN = 75  # exit code of a job that was stopped from outside: EX_TEMPFAIL of sysexits.h, "try again later"
# errno of missing permission or space: the user can mend these, a traceback would not help
ENVIRONMENT_ERRORS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT}


class InputError(ValueError):
    """Input that only the user can mend; its text is one sentence with file, line and remedy."""


class JobFailed(RuntimeError):
    """Work that could not be done; its text is the last line that the job prints."""


class Stopped(BaseException):
    """Raised on SIGTERM: finished work is saved, and the process must exit.

    A BaseException, so that no `except Exception` swallows it.
    """


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ` (did you mean X?)` with the closest known name, or an empty string if none is close."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean {close[0]}?)" if close else ""


def user_message(error: BaseException) -> str | None:
    """Return the message for an error that only the user can mend, else None.

    These errors are an `InputError`, a missing permission and a full disk.
    """
    if isinstance(error, InputError):
        return str(error)
    text = str(error)
    if isinstance(error, OSError) and error.errno in ENVIRONMENT_ERRORS:
        where = f" ({error.filename})" if error.filename else ""
        return f"{error.strerror}{where}; make room or get the right to write there, then repeat"
    if os.strerror(errno.ENOSPC) in text or "PytorchStreamWriter failed writing" in text:  # safetensors, torch.save
        return f"{os.strerror(errno.ENOSPC)}; make room, then repeat"
    return None


def run_main(main: Callable[[], None]) -> None:
    """Run a script's main; turn an error that the user can mend into its message on stderr and exit code 2.

    All ranks of a launch fail on the same input, and the launcher kills the rest once any rank has exited. Ranks other
    than 0 wait `GRACE_SECONDS` before they print, so that rank 0's message is the only one.
    """
    is_main_process = int(os.environ.get("RANK", "0")) == 0  # read before main() drops the launcher's environment
    try:
        main()
    except JobFailed as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:  # `| head` closed the pipe: not an error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Stopped:
        print("stopped from outside; what is done is kept, the same command goes on from there", file=sys.stderr)
        sys.exit(ASK_AGAIN)
    except KeyboardInterrupt:
        print("\nstopped; what is done is kept, the same command goes on from there", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        message = user_message(error)
        if message is None:
            raise
        if not is_main_process:
            time.sleep(GRACE_SECONDS)
        print(f"error: {message}", file=sys.stderr)
        sys.exit(2)
