"""The page of errors: their classes, and each message with its mend, by the part of the work it belongs to."""

from __future__ import annotations

from generator.markdown import code, prose, split_docstring, table
from generator.raised import Raised, raised
from medtl_monai import errors

ROOMS = {
    "dicom": "Reading DICOM",
    "data": "Images, labels, splits and preprocessing",
    "config": "Configuration",
    "training": "Training and run folders",
    "transfer": "Weights, stages and freezing",
    "builtin": "Built-in backbones and heads",
    "evaluation": "Evaluation",
    "outputs": "Predictions and reports",
    "cli": "Command line",
    "api": "Python interface",
    "files": "Writing files",
    "runs": "Listing runs",
}
"""First part of a module's name to the heading; rooms that are not here are about plugins."""
_PLUGINS = "Plugins and names"


def page() -> str:
    """Return the page."""
    found = raised()
    parts = [_classes(), _explanation()]
    headings = [*dict.fromkeys(ROOMS.values()), _PLUGINS]
    for heading in headings:
        entries = [entry for entry in found if ROOMS.get(entry.room, _PLUGINS) == heading]
        if entries:
            parts.append(f"## {heading}\n\n{_table(entries)}")
    return "\n".join(parts)


def _classes() -> str:
    found = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]
    rows = [(code(e.__name__), prose(split_docstring(e)[0])) for e in found if e is not errors.MedtlError]
    text, _ = split_docstring(errors.MedtlError)
    return f"## MedtlError\n\n{prose(text)}\n\n{table(('error', 'meaning'), rows)}"


def _explanation() -> str:
    return (
        "What follows is every message, read from the code. Search the page for words you see; what differs from case "
        "to case stands as ‹name›. In front of a message stands its place: a case, a file relative to the data root, "
        "an attribute, a key.\n"
    )


def _table(entries: list[Raised]) -> str:
    rows = {
        (_text(entry.what), _text(entry.mend), f"{code(entry.error)} in {code(entry.module)}"): None
        for entry in entries
    }
    return table(("message", "mend", "raised as"), rows)


def _text(template: str) -> str:
    """Return a message as Markdown in which nothing is mark-up."""
    text = template.replace("\\", "\\\\")
    for character in "*_`[]<>#$~":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())
