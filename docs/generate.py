"""Write the generated parts of the reference: ``python docs/generate.py [FOLDER]``.

``conf.py`` runs it before every build; the pages in ``reference/`` include what it writes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
if str(HERE) not in sys.path:
    sys.path.insert(0, str(HERE))

from generator import commands, contract, errorpage, settings  # noqa: E402 -- needs the path above

PAGES: dict[str, Callable[[], str]] = {
    "hooks": contract.hooks,
    "specs": contract.spec_classes,
    "freezing": contract.freezing,
    "torch": contract.torch_side,
    "commands": commands.page,
    "config": settings.config,
    "python": contract.python,
    "errors": errorpage.page,
    "builtins": settings.builtins,
}


def generate(folder: Path) -> dict[str, str]:
    """Write every part to ``folder`` and return the texts by name; files that are right already are left alone."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {name: make() for name, make in PAGES.items()}
    for name, text in texts.items():
        path = folder / f"{name}.md"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
    return texts


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "reference" / "generated")
