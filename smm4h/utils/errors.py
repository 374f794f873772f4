"""Errors that the user can mend: one sentence on stderr, exit code 2, no traceback."""

import difflib
import errno
import io
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable

from smm4h.utils.wording import between_words

GRACE_SECONDS = 5  # that other ranks wait for rank 0 to print an error
ASK_AGAIN = 75  # exit code of a job that was stopped from outside: EX_TEMPFAIL of sysexits.h, "try again later"
# errno of missing permission or space, with what to do: the user can mend these, a traceback would not help
ENVIRONMENT_ERRORS = {
    errno.EACCES: "get the right to read and write there",
    errno.EPERM: "get the right to read and write there",
    errno.EROFS: "get the right to write, or name another place",
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room",
    errno.EIO: "look after the disk, which can't be read or written there",
    errno.ESTALE: "mount the network file system anew",
    errno.EMFILE: "allow more open files (ulimit -n)",
    errno.ENFILE: "close other programs that hold files open",
    errno.EFBIG: "name a place on a file system that allows so large a file",
}
# Texts of such errors without errno, and their numbers: of safetensors, and of torch.save, whose text depends on the
# byte that finds no room; where it fails to close the file, too, the first error is the context of the second.
WITHOUT_NUMBER = {
    **{os.strerror(number): number for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)},
    "PytorchStreamWriter failed writing": errno.ENOSPC,
    "basic_ios::clear: iostream error": errno.ENOSPC,
}
# Of other errors that the operating system reports about a path: what is wrong, and what to do.
PATH_ERRORS = {
    errno.ENOENT: "is not there; name an existing file or folder",
    errno.ENOTDIR: "can't be reached, because a part of this path is a file and no folder; name another place",
    errno.EEXIST: "is there already; name another place",
    errno.EISDIR: "is a folder, where a file is expected; name a file",
    errno.ENOTEMPTY: "is a folder that is not empty; name another place",
    errno.ENAMETOOLONG: "has a longer name than the file system allows; choose a shorter one",
    errno.EINVAL: "has a name that the file system does not allow; choose another one",
    errno.ELOOP: "is a symbolic link that leads back to itself; name the file itself",
}
CONTROL = re.compile("[\x00-\x1f\x7f\x85\u2028\u2029]")  # what ends a line or a field in some program
HAS_CONTROL = "the {} holds a tab, an end of line or another control character; remove it"
LONGEST_PATH = 200  # characters of a path that a message shows


class InputError(ValueError):
    """Input that only the user can mend; its text is one sentence with file, line and remedy."""


class JobFailed(RuntimeError):
    """Work that could not be done; its text is the last line that the job prints."""


class Stopped(BaseException):
    """Raised on SIGTERM: finished work is saved, and the process must exit.

    A BaseException, so that no `except Exception` swallows it.
    """


def stop_on_signals() -> None:
    """Have SIGTERM, and SIGHUP unless it is ignored, raise `Stopped`, so that temporary files are removed."""
    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    for number in (getattr(signal, name) for name in names):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _raise_stopped)


def _raise_stopped(number: int, _) -> None:
    signal.signal(number, signal.SIG_IGN)  # a second one must not disturb the end
    raise Stopped


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ` (did you mean X?)` with the closest known name, or an empty string if none is close."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean {close[0]}?)" if close else ""


def user_message(error: BaseException) -> str | None:
    """Return the message for an error that only the user can mend, wherever it is raised, else None.

    These errors are an `InputError`, one that says so itself, a missing permission and a full disk.
    """
    if isinstance(error, InputError) or getattr(error, "for_user", False):
        return str(error)  # smm4h.models cannot import InputError: its files are published without this package
    if isinstance(error, OSError) and error.errno in ENVIRONMENT_ERRORS:
        where = f" ({path})" if (path := _path_of(error)) else ""
        return f"{error.strerror}{where}; {ENVIRONMENT_ERRORS[error.errno]}, then repeat"
    texts = str(error), str(error.__context__)
    if number := next((n for known, n in WITHOUT_NUMBER.items() if any(known in text for text in texts)), None):
        return f"{os.strerror(number)}; {ENVIRONMENT_ERRORS[number]}, then repeat"
    return None


def path_message(error: BaseException) -> str | None:
    """Return the message for an error about a path or a Parquet column that a command was given, else None.

    For a command's own process only: in a worker the same errors may be faults of a run, whose traceback is needed.
    """
    if isinstance(error, OSError) and error.errno in PATH_ERRORS and (path := _path_of(error)):
        return f"{path} {PATH_ERRORS[error.errno]}"
    if isinstance(error, FileNotFoundError) and error.errno is None and error.args:  # pyarrow's, with the path alone
        return f"{error.args[0]} {PATH_ERRORS[errno.ENOENT]}"
    if isinstance(error, KeyError) and "does not exist in schema" in str(error):  # pyarrow, whose message has no path
        return f"a Parquet file lacks a column ({error.args[0]}); it was made by another program or version"
    return None


def _path_of(error: OSError) -> str | None:
    """Return the path that an error is about, cut in its middle where it is long; None where it names none."""
    path = error.filename
    if not isinstance(path, str | bytes | os.PathLike) or not path:
        named = re.search(r"local file '([^']*)'", str(error))  # pyarrow's errors have the path in their text only
        if named is None:
            return None
        path = named[1]
    path = os.fsdecode(path)
    return path if len(path) <= LONGEST_PATH else f"{path[:100]}...{path[-80:]}"


def use_utf8() -> None:
    """Start this process anew in Python's UTF-8 mode where the locale has another encoding for the names of files.

    pyarrow, tokenizers and safetensors know UTF-8 only, and fail at such names.
    """
    if sys.getfilesystemencoding() != "utf-8" and os.name == "posix" and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def open_closed_streams() -> None:
    """Have what was closed before the command began (`>&-`, `<&-`) read nothing and write nowhere."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - open to the end


def print_error(message: object) -> None:
    """Print a message on stderr: a line in a file, and in a terminal lines that are broken between words."""
    text = f"error: {message}"
    print(between_words(text, shutil.get_terminal_size().columns) if sys.stderr.isatty() else text, file=sys.stderr)


def run_main(main: Callable[[], None]) -> None:
    """Run a script's main; turn an error that the user can mend into its message on stderr and exit code 2.

    All ranks of a launch fail on the same input, and the launcher kills the rest once any rank has exited. Ranks other
    than 0 wait `GRACE_SECONDS` before they print, so that rank 0's message is the only one.
    """
    open_closed_streams()
    use_utf8()
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal of another encoding must not stop a command by a name
        sys.stdout.reconfigure(errors="backslashreplace")
    is_main_process = int(os.environ.get("RANK", "0")) == 0  # read before main() drops the launcher's environment
    try:
        main()
    except JobFailed as error:
        print_error(error)
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
        message = user_message(error) or path_message(error)
        if message is None:
            from smm4h.utils.tracebacks import traceback_of  # of few ends

            print(traceback_of(error), file=sys.stderr)
            sys.exit(1)
        if not is_main_process:
            time.sleep(GRACE_SECONDS)
        print_error(message)
        sys.exit(2)
