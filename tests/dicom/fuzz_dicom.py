"""The fuzz run: mutated files are read; each must give the right volume or a typed error, in time and in memory.

Every mutant is made from its number and the seed alone. ``python tests/dicom/fuzz_dicom.py --help`` repeats one.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import dataclasses
import faulthandler
import functools
import multiprocessing
import resource
import signal
import tempfile
import time
import traceback
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

import numpy as np
import pydicom
from cases_catalogue import Expected
from fuzz_mutations import MUTATIONS
from fuzz_oracle import judge_bytes
from helpers_dicom import (
    BIG,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    JPEG_2000,
    JPEG_LOSSLESS,
    JPEG_LS,
    RLE,
    SC,
    Items,
    Recipe,
    frames_of,
    instance,
    item,
    oblique,
    put_pixels,
    save,
    write_enhanced,
    write_seg,
)
from pydicom.uid import UID

from medtl_monai.dicom import Volume, read_seg, read_volume, read_volumes, scan
from medtl_monai.errors import MedtlError

CHUNK = 100
HANG_S = 10.0
SLACK_BYTES = 2**23
"""What reading may need beside four times the array: header objects, the file's own bytes."""
ADDRESS_SPACE = 2**31
"""What a worker may allocate on top of what it has: a larger wish is a MemoryError, which is a failure."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Base:
    """A folder that is mutated.

    Attributes:
        name: What it is.
        files: Name → bytes.
        targets: The files that are mutated.
        read: Reads the folder: volumes, or volumes and label arrays.
        truth: What reads from the files as they are.
    """

    name: str
    files: dict[str, bytes]
    targets: tuple[str, ...]
    read: Callable[[Path], list[Volume]]
    truth: tuple[Expected, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one mutant.

    Attributes:
        number: Its number.
        base: The folder's name.
        mutation: What was done.
        verdict: ``"right"``, ``"refused"``, ``"wrong"``, ``"crash"``, ``"hang"`` or ``"memory"``.
        detail: The error, or what is wrong.
        seconds: Time that reading took.
    """

    number: int
    base: str
    mutation: str
    verdict: str
    detail: str = ""
    seconds: float = 0.0


class HangError(BaseException):
    """Reading took too long; no ``except Exception`` catches it."""


# Bases


def _fixed(folder: Path) -> dict[str, bytes]:
    """Give every file the UIDs of its name, so that a mutant is the same in every process."""
    files = {}
    for number, path in enumerate(sorted(p for p in folder.iterdir() if p.is_file())):
        data = pydicom.dcmread(path)
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = UID(f"1.2.826.0.1.3680043.8.498.{number + 1}")
        data.save_as(path, enforce_file_format=True)
        files[path.name] = path.read_bytes()
    return files


def _recipe(**more: object) -> Recipe:
    defaults = {"columns": 24, "rows": 20, "slices": 4, "study": "1.2.826.0.1.3680043.8.498.7"}
    return Recipe(**{**defaults, "series": "1.2.826.0.1.3680043.8.498.8", **more})


def _series(name: str, **recipe: object) -> Base:
    made = _recipe(**recipe)
    with tempfile.TemporaryDirectory() as folder:
        made.write(Path(folder))
        files = _fixed(Path(folder))
    return Base(name=name, files=files, targets=tuple(files), read=_one, truth=(Expected.of(made),))


def _one(folder: Path) -> list[Volume]:
    return [read_volume(folder)]


def _enhanced(name: str, **recipe: object) -> Base:
    made = _recipe(**recipe)
    with tempfile.TemporaryDirectory() as folder:
        write_enhanced(Path(folder), made, [2, 0, 3, 1])
        files = _fixed(Path(folder))
    return Base(name=name, files=files, targets=tuple(files), read=_one, truth=(Expected.of(made),))


def _flat(name: str, *, modality: str, frames: int = 1, colour: bool = False, **attributes: object) -> Base:
    recipe = _recipe(slices=1, spacing=(1.0, 1.0), step=1.0, origin=(0, 0, 0))
    dataset = instance(SC, EXPLICIT, recipe.study, recipe.series)
    dataset.Modality = modality
    images = [(recipe.values(0) + 7 * n) % 256 for n in range(frames)]
    if colour:
        images = [np.stack([image, 255 - image, image // 2], -1) for image in images]
    put_pixels(dataset, images[0] if frames == 1 else np.stack(images), 8, 8, colour=colour)
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    with tempfile.TemporaryDirectory() as folder:
        save(dataset, Path(folder) / "image")
        files = _fixed(Path(folder))
    affine = Expected.of(recipe).affine
    arrays = [np.asarray(image, float).T[..., None] for image in images]
    if colour:
        arrays = [np.asarray(image, float).transpose(2, 1, 0)[..., None] for image in images]
    truth = tuple(Expected(array=array, affine=affine) for array in arrays)
    return Base(name=name, files=files, targets=("image",), read=read_volumes, truth=truth)


def _segmentation() -> Base:
    made = _recipe()
    labels = np.zeros((24, 20, 4), np.uint8)
    labels[3:9, 2:8, 1:3], labels[12:20, 5:15, 2:4] = 1, 2
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made.write(folder)
        write_seg(folder / "seg", frames_of(labels, made), made)
        files = _fixed(folder)
    whole = Expected.of(made)
    truth = (whole, dataclasses.replace(whole, array=labels.astype(float)))
    return Base(name="segmentation", files=files, targets=("seg",), read=_with_labels, truth=truth)


def _with_labels(folder: Path) -> list[Volume]:
    volume = read_volume(folder)
    mask = read_seg(folder / "seg", volume)
    return [volume, volume.replace(array=mask.labels.astype(np.float32))]


def _structures() -> Base:
    made = _recipe()
    dataset = instance("1.2.840.10008.5.1.4.1.1.481.3", EXPLICIT, made.study, "1.2.826.0.1.3680043.8.498.9")
    dataset.Modality = "RTSTRUCT"
    contour = item(ContourGeometricType="CLOSED_PLANAR", NumberOfContourPoints=3, ContourData=list("000500050"))
    dataset.ROIContourSequence = Items([item(ReferencedROINumber=1, ContourSequence=Items([contour]))])
    dataset.StructureSetROISequence = Items([item(ROINumber=1, ROIName="liver")])
    series = item(SeriesInstanceUID=made.series)
    study = item(RTReferencedSeriesSequence=Items([series]))
    dataset.ReferencedFrameOfReferenceSequence = Items([item(RTReferencedStudySequence=Items([study]))])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made.write(folder)
        save(dataset, folder / "rtstruct")
        files = _fixed(folder)
    return Base(name="structure set", files=files, targets=("rtstruct",), read=_beside, truth=(Expected.of(made),))


def _beside(folder: Path) -> list[Volume]:
    scan(folder)
    return [read_volume(folder)]


@functools.cache
def bases() -> tuple[Base, ...]:
    """Return the folders that are mutated."""
    signed = {"signed": True, "slope": 1.0, "intercept": 900.0}
    return (
        _series("explicit", slope=0.5, intercept=-3.0),
        _series("implicit", syntax=IMPLICIT, orientation=oblique(20, -13, 41)),
        _series("big-endian", syntax=BIG, **signed),
        _series("deflated", syntax=DEFLATED),
        _series("ct", modality="CT", slope=1.0, intercept=-1024.0, stored=12),
        _series("signed-12-bit", stored=12, **signed),
        _series("tilted", tilt=(0.0, 0.8, 0.0)),
        _series("rle", syntax=RLE),
        _series("jpeg-lossless", syntax=JPEG_LOSSLESS),
        _series("jpeg-ls", syntax=JPEG_LS),
        _series("jpeg-2000", syntax=JPEG_2000, columns=64, rows=48),
        _enhanced("enhanced", slope=[0.5, 0.25, 1.0, 0.125], intercept=-3.0),
        _enhanced("enhanced-implicit", syntax=IMPLICIT),
        _flat("radiograph", modality="DX", ImagerPixelSpacing=["1", "1"]),
        _flat("bright-is-low", modality="CR", ImagerPixelSpacing=["1", "1"]),
        _flat("colour", modality="US", colour=True),
        _flat("cine", modality="US", frames=3),
        _segmentation(),
        _structures(),
    )


# One mutant


def mutant(number: int, seed: int) -> tuple[Base, str, dict[str, bytes]]:
    """Return a mutant's base, what was done, and its files."""
    random = np.random.default_rng([seed, number])
    base = bases()[number % len(bases())]
    target = base.targets[int(random.integers(len(base.targets)))]
    data, names = base.files[target], []
    for _ in range(2 if random.random() < 0.1 else 1):
        mutation = MUTATIONS[int(random.integers(len(MUTATIONS)))]
        names.append(mutation.__name__)
        data = mutation(data, random) if len(data) > 256 else data
    return base, f"{'+'.join(names)} of {target}", {**base.files, target: data}


def judge(number: int, seed: int, folder: Path) -> Outcome:
    """Write a mutant into a folder, read it, and judge what comes."""
    base, what, files = mutant(number, seed)
    for path in folder.iterdir():
        path.unlink()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    outcome = functools.partial(Outcome, number=number, base=base.name, mutation=what)
    started = time.perf_counter()
    try:
        volumes, peak = _read(base, folder)
    except MedtlError as error:
        return outcome(verdict="refused", detail=str(error), seconds=time.perf_counter() - started)
    except HangError:
        return outcome(verdict="hang", seconds=HANG_S)
    except BaseException:
        return outcome(verdict="crash", detail=traceback.format_exc(), seconds=time.perf_counter() - started)
    seconds = time.perf_counter() - started
    limit = 4 * sum(volume.array.nbytes for volume in volumes) + SLACK_BYTES
    if peak > limit:
        return outcome(verdict="memory", detail=f"{peak} of {limit} bytes", seconds=seconds)
    wrong = _wrong(base, volumes, files)
    return outcome(verdict="wrong" if wrong else "right", detail=wrong, seconds=seconds)


def _read(base: Base, folder: Path) -> tuple[list[Volume], int]:
    signal.setitimer(signal.ITIMER_REAL, HANG_S)
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    try:
        volumes = base.read(folder)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return volumes, tracemalloc.get_traced_memory()[1] - before


def _wrong(base: Base, volumes: Sequence[Volume], files: dict[str, bytes]) -> str:
    """Compare with the truth before the mutation, then with what pydicom makes of the very bytes."""
    known = list(base.truth)
    if base.name == "segmentation":
        known += _labels(files, base)
    wrong = [volume for volume in volumes if not _fits(volume, known)]
    if wrong:
        known = judge_bytes(files)
        wrong = [volume for volume in wrong if not _fits(volume, known)]
    if not wrong:
        return ""
    reasons = "; ".join(expected.judge(wrong[0].array, wrong[0].affine).why for expected in [*base.truth, *known])
    return f"{wrong[0]!r} {wrong[0].notes}: {reasons}"


def _fits(volume: Volume, known: Sequence[Expected]) -> bool:
    return any(expected.judge(volume.array, volume.affine).right for expected in known)


def _labels(files: dict[str, bytes], base: Base) -> list[Expected]:
    """Place the frames of the mutated segmentation on the image's grid, as they say where they are."""
    import io

    image = base.truth[0]
    try:
        seg = pydicom.dcmread(io.BytesIO(files["seg"]), force=True)
        seg.file_meta.setdefault("TransferSyntaxUID", EXPLICIT)
        labels = np.zeros(image.array.shape)
        for mask, group in zip(seg.pixel_array, seg.PerFrameFunctionalGroupsSequence, strict=True):
            position = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float) * (-1, -1, 1)
            index = np.rint(np.linalg.inv(image.affine) @ [*position, 1]).astype(int)
            plane = labels[index[0] :, index[1] :, index[2]]
            part = mask.T[: plane.shape[0], : plane.shape[1]] > 0
            number = int(group.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
            plane[: part.shape[0], : part.shape[1]][part] = number
    except Exception:  # whatever damaged bytes provoke
        return []
    return [dataclasses.replace(image, array=labels)]


# Many


def _prepare_worker() -> None:
    """Bound memory and time of a worker."""
    bases()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ADDRESS_SPACE, resource.RLIM_INFINITY))
    signal.signal(signal.SIGALRM, _hung)
    tracemalloc.start()


def _hung(_: int, frame: FrameType | None) -> None:
    raise HangError


def run_chunk(numbers: Sequence[int], seed: int) -> list[Outcome]:
    """Judge some mutants in this worker; one that cannot even be interrupted ends the process with a traceback."""
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="medtl-fuzz-") as folder:
        for number in numbers:
            faulthandler.dump_traceback_later(3 * HANG_S, exit=True)
            outcomes.append(judge(number, seed, Path(folder)))
    faulthandler.cancel_dump_traceback_later()
    return outcomes


def _alone(number: int, seed: int) -> Outcome:
    """Judge one mutant in a process of its own, which it may bring down."""
    base, what, _ = mutant(number, seed)
    try:
        with _pool(1) as pool:
            return pool.submit(run_chunk, [number], seed).result()[0]
    except concurrent.futures.process.BrokenProcessPool:
        return Outcome(number=number, base=base.name, mutation=what, verdict="crash", detail="the process ended")


def _pool(processes: int) -> concurrent.futures.ProcessPoolExecutor:
    spawn = multiprocessing.get_context("spawn")
    return concurrent.futures.ProcessPoolExecutor(processes, mp_context=spawn, initializer=_prepare_worker)


def run(count: int, seed: int = 0, processes: int = 2) -> list[Outcome]:
    """Judge ``count`` mutants. Where one brings its process down, its chunk is gone through one by one."""
    chunks = [range(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]
    outcomes: list[Outcome] = []
    while chunks:
        with _pool(processes) as pool:
            jobs = [pool.submit(run_chunk, chunk, seed) for chunk in chunks]
            concurrent.futures.wait(jobs)
        done = [not isinstance(job.exception(), concurrent.futures.process.BrokenProcessPool) for job in jobs]
        outcomes += [one for job, fine in zip(jobs, done, strict=True) if fine for one in job.result()]
        chunks = [chunk for chunk, fine in zip(chunks, done, strict=True) if not fine]
        if chunks:
            outcomes += [_alone(number, seed) for number in chunks.pop(0)]
    return outcomes


def summary(outcomes: Sequence[Outcome]) -> str:
    """Return a table: how many of each verdict, per base."""
    verdicts = ("right", "refused", "wrong", "crash", "hang", "memory")
    lines = [f"{'base':<20}" + "".join(f"{verdict:>9}" for verdict in verdicts)]
    for name in (*dict.fromkeys(one.base for one in outcomes), "all"):
        counts = collections.Counter(one.verdict for one in outcomes if name in (one.base, "all"))
        lines.append(f"{name:<20}" + "".join(f"{counts[verdict]:>9}" for verdict in verdicts))
    return "\n".join(lines)


def bad(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Return what may not happen."""
    return [one for one in outcomes if one.verdict not in ("right", "refused")]


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", type=int, help="repeat one mutant and leave its files in --keep")
    parser.add_argument("--keep", type=Path, default=Path("mutant"))
    asked = parser.parse_args()
    if asked.only is not None:
        _prepare_worker()
        asked.keep.mkdir(exist_ok=True)
        print(judge(asked.only, asked.seed, asked.keep))
        return
    started = time.perf_counter()
    outcomes = run(asked.count, asked.seed, asked.processes)
    print(summary(outcomes))
    print(
        f"{len(outcomes)} mutants in {time.perf_counter() - started:.0f} s, "
        f"slowest {max(one.seconds for one in outcomes):.2f} s"
    )
    for one in bad(outcomes):
        print(one.number, one.base, one.mutation, one.verdict, one.detail, sep="\n    ")


if __name__ == "__main__":
    main()
