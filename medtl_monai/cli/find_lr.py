"""What ``medtl train --find-lr`` shows: the range test's curve and the rate it suggests; nothing is trained."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import typer

from medtl_monai.cli.output import print_json, print_note, print_table

if TYPE_CHECKING:
    from medtl_monai.config import RunConfig
    from medtl_monai.host import Host
    from medtl_monai.training.lr_finder import LrCurve

_EVERY = 10
"""Steps between two rows: half a decade."""


def show_lr(config: RunConfig, host: Host, *, json: bool) -> None:
    """Run the range test and print it; with ``out`` set, also write ``OUT-lr.csv`` and ``OUT-lr.png``.

    Raises:
        MedtlError: With the first thing that does not fit, as training would.
    """
    from medtl_monai.cli.progress import RichReporter, closing_bars
    from medtl_monai.outputs.lr_curve import write_lr_curve
    from medtl_monai.training.assemble import assemble
    from medtl_monai.training.datasets import load_datasets
    from medtl_monai.training.folds import is_several, member_config, members_of
    from medtl_monai.training.lr_finder import find_lr

    if is_several(config):
        first = members_of(config)[0]
        print_note(f"the rate is looked for on {first.path}")
        config = member_config(config, first, config.out).model_copy(update={"out": config.out})
    with closing_bars(RichReporter()) as reporter:
        assembly = assemble(config, host, reporter)
        curve = find_lr(assembly, load_datasets(assembly, reporter), reporter)
    files = write_lr_curve(config.out.with_name(f"{config.out.name}-lr"), curve) if config.out is not None else ()
    if json:
        print_json({**dataclasses.asdict(curve), "files": [str(path) for path in files]})
        return
    _print(curve)
    for path in files:
        typer.echo(f"written to {path}")


def _print(curve: LrCurve) -> None:
    rows = [
        (f"{lr:.1e}", f"{loss:.4f}")
        for n, (lr, loss) in enumerate(zip(curve.lrs, curve.smoothed, strict=True))
        if n % _EVERY == 0 or n == len(curve.lrs) - 1
    ]
    print_table(("Learning rate", "Smoothed loss"), rows)
    if curve.diverged:
        typer.echo("the loss diverged there; higher rates were not tried")
    typer.echo(f"trained in this test, as in the policy's first phase: {', '.join(curve.trains)}")
    if curve.suggestion is None:
        typer.echo("no suggestion: the loss fell by less than 5 % at any rate")
        return
    lowest = "" if curve.lowest is None else f" (lowest at {curve.lowest:.1e})"
    typer.echo(f"the smoothed loss falls most steeply at {curve.suggestion:.1e}{lowest}. To use it:")
    typer.echo(f"  --lr {curve.suggestion:.1e}")
