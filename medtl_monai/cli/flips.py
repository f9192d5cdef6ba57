"""The options of test-time augmentation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medtl_monai.errors import ConfigError

TTA_HELP = "Test-time augmentation: the mean over the flips that the run was trained with."
TTA_AXES_HELP = "Test-time augmentation along these axes, whatever the run was trained with: 0,1."


def flips_of(runs: Sequence[Path], tta: bool, axes: str | None) -> tuple[int, ...]:
    """Return the axes that are asked for.

    Args:
        runs: The run folders.
        tta: Whether those are wanted that the runs were trained with.
        axes: Those named, separated by commas.

    Raises:
        ConfigError: If the runs were trained without flips and no axes are named, or a name is not a number.
    """
    if axes is not None:
        try:
            return tuple(int(part) for part in axes.split(","))
        except ValueError:
            mend = "For example --tta-axes 0,1"
            raise ConfigError(f"{axes!r} is not a list of axes", where="--tta-axes", mend=mend) from None
    if not tta:
        return ()
    from medtl_monai.training.ensemble import allowed_flips

    return allowed_flips(runs)
