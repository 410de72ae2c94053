"""The standard output of the commands."""

import os
import signal
import sys


def write(text: str) -> None:
    """Write a text to standard output at once.

    :raises SystemExit: if it can't be written: with a one-line message, or, if its reader has
        exited, with only the exit code of a program that SIGPIPE ended.
    """
    # Names of files may not be UTF-8, and terminals may have another encoding.
    encoding = sys.stdout.encoding
    text = text.encode(encoding, "backslashreplace").decode(encoding)
    try:
        print(text, end="", flush=True)  # noqa: T201 - the output of the command
    except OSError as error:
        # Python writes the rest of its buffer at exit, which would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise SystemExit(128 + signal.SIGPIPE) from None
        raise SystemExit(f"Standard output can't be written: {error.strerror}") from None
