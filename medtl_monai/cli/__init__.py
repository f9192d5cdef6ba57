"""The ``medtl`` command line. A command is one line in :data:`COMMANDS` and one module, imported when it is called."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

from medtl_monai.errors import MedtlError
from medtl_monai.isolation import describe

COMMANDS: dict[str, str] = {
    "scan": "Show what a tree of DICOM files holds, and start a labels table.",
    "train": "Train a backbone and a head on labelled studies.",
    "evaluate": "Measure a run on cases it has not learnt from.",
    "predict": "Apply a run to new studies.",
    "cache": "Show the preprocessed images, scans and weights on this disk, or remove them.",
    "runs": "List the runs below a folder.",
    "key": "Show, export or import the key of case ids, which a team shares.",
    "config": "Print the resolved configuration, or its schema.",
    "demo": "Source task, transfer, and training from scratch, side by side.",
    "plugins": "List the plugins: what they offer, and why one does not work.",
    "backbones": "List the backbones, or show one.",
    "weights": "List pretrained weights, or download them beforehand.",
    "heads": "List the task heads, or show one.",
    "policies": "List the freeze policies, or show one.",
}
"""Command name to the line shown for it; ``medtl_monai.cli.<name>`` holds its typer ``app``."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code.

    0: done. 2: something the user can mend, said in one sentence on stderr. 130: interrupted. 1: anything else.
    A traceback is shown with ``--debug`` only.

    Args:
        argv: The arguments after ``medtl``; default ``sys.argv[1:]``.
    """
    from medtl_monai.cli.application import application
    from medtl_monai.cli.output import print_note
    from medtl_monai.cli.terminal import session
    from medtl_monai.notices import listening

    arguments = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    with session(), listening(print_note):
        return _run(application(), arguments)


def _run(command: Any, arguments: Sequence[str]) -> int:
    state = {"debug": False}
    try:
        result = command.main(args=list(arguments), prog_name="medtl", standalone_mode=False, obj=state)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return _closed_pipe()
    except Exception as error:
        return _report(error, arguments, debug=state["debug"])
    return result if isinstance(result, int) else 0


def _closed_pipe() -> int:
    # The reader (head, less) went away: point stdout elsewhere, or the interpreter complains while it exits.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


def _report(error: Exception, arguments: Sequence[str], *, debug: bool) -> int:
    from medtl_monai.cli.output import print_error
    from medtl_monai.cli.terminal import hide_words

    if debug:
        import traceback

        traceback.print_exception(error)
    # Under MEDTL_STRICT, a note names the plugin that raised it.
    notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
    if isinstance(error, MedtlError):
        print_error(f"{error}{notes}")
        return 2
    if callable(format_message := getattr(error, "format_message", None)):
        # A path with a blank that was not quoted is complained about word by word.
        hide_words(word for word in arguments if not word.startswith("-") and word not in COMMANDS)
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else "medtl"
        text = str(format_message()).rstrip(".")
        print_error(f"{text}{'' if text.endswith('?') else '.'} See '{path} --help'.")
        return 2
    hint = "" if debug else "; run again with --debug"
    print_error(f"internal error: {describe(error)}{notes}{hint}")
    return 1
