"""What happens when posttrain itself breaks: one line that says so, and the traceback in a file."""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from contextvars import ContextVar
from pathlib import Path

from posttrain import __version__
from posttrain.core.durable import write_text
from posttrain.core.errors import EXIT_INTERNAL, PosttrainError, StorageError
from posttrain.core.run_folder import RunFolder

RUN_FOLDER: ContextVar[Path | None] = ContextVar("run folder of the command", default=None)
"""The folder that the command works in, where it has one: the traceback goes there."""


class BugError(PosttrainError):
    """An exception that nobody expected: a fault of this program, never of its user."""

    code = "E-BUG"
    exit_code = EXIT_INTERNAL


def record_bug(error: BaseException) -> BugError:
    """Write an unexpected exception's traceback to a file and return the error that names it.

    The file is in the run folder if the command has one, else in the system's folder of temporary files;
    where neither can be written, the traceback goes to standard error.
    """
    text = f"posttrain {__version__}, Python {sys.version}\n" + "".join(traceback.format_exception(error))
    folder = RUN_FOLDER.get()
    temporary = Path(tempfile.gettempdir()) / f"posttrain-traceback-{os.getpid()}.txt"
    paths = [RunFolder(folder).traceback] if folder is not None and folder.is_dir() else []
    where = "above"
    for path in (*paths, temporary):
        try:
            write_text(path, text)
        except StorageError:
            continue
        where = f"in {path}"
        break
    else:
        sys.stderr.write(text)
    return BugError(
        f"this is a bug of posttrain, not of your files: {type(error).__name__}: {error}",
        cure=f"please report it with the traceback, which is {where}",
    )
