"""What a case is made from: the files whose bytes decide it, and which parts of them.

The one place that knows how a case refers to files; whatever else an image may come from is added here.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medtl_monai.data.cases import Case, CaseTable
from medtl_monai.dicom import Series
from medtl_monai.dicom.header import Header, Plane


def source_files(case: Case) -> tuple[Path, ...]:
    """Return every file whose bytes decide the preprocessed case: those of its images, in order, and the mask's."""
    return (*case.files, *((case.target,) if isinstance(case.target, Path) else ()))


def has_problem(case: Case) -> bool:
    """Whether something is known against the case: its error is to be raised even if the cache has its voxels."""
    return case.problem is not None or any(isinstance(s, Series) and s.problem is not None for s in case.sources)


def source_facts(table: CaseTable, case: Case) -> dict[str, Any]:
    """Return what, beside the files' bytes, decides how the images and the mask are read; plain values.

    Of a series these are the frames it is made of and their headers as the scan saw them: a scan that is older than the
    bytes must not give its geometry to them. File names and identifiers are left out.
    """
    facts: dict[str, Any] = {
        "images": [_source(source) for source in case.sources],
        "inputs": [repr(dataclasses.replace(item, column="")) for item in table.inputs.items],
        "channels": list(table.inputs.channels),
    }
    if isinstance(case.target, Path):
        scheme = table.scheme
        left_out = ("structures", "present", "notes")
        facts["mask"] = None if scheme is None else [len(scheme.structures), repr(_fields(scheme, left_out))]
        facts["mask_name"] = "".join(case.target.suffixes[-2:]).lower()
    return facts


def _source(source: Series | Path | None) -> Any:
    if isinstance(source, Series):
        return _series(source)
    return None if source is None else "".join(source.suffixes[-2:]).lower()


def _fields(item: Any, leave_out: tuple[str, ...]) -> dict[str, Any]:
    return {f.name: getattr(item, f.name) for f in dataclasses.fields(item) if f.name not in leave_out}


def _series(series: Series) -> list[Any]:
    number = {name: n for n, name in enumerate(series.files)}
    headers: dict[str, str] = {}
    frames = []
    for item in series.slices:
        path = item.header.path
        if path not in headers:
            headers[path] = _header(item.header)
        frames.append((number[path], item.frame))
    known = (series.modality, series.part, series.volumetric, series.derived, list(series.notes))
    return [*known, repr(frames), *headers.values()]


def _getter(kind: type, leave_out: tuple[str, ...] = ()) -> Callable[[Any], Any]:
    """Return what takes the fields that are not identifiers: those whose ``repr`` is not switched off."""
    names = [f.name for f in dataclasses.fields(kind) if f.repr and f.name not in leave_out]
    return operator.attrgetter(*names)


# A scan of thousands of slices asks for each: tuples are many times faster than the dataclasses' own repr.
_of_header = _getter(Header, ("path", "planes"))
_of_plane = _getter(Plane)


def _header(header: Header) -> str:
    return repr((_of_header(header), [_of_plane(plane) for plane in header.planes]))
