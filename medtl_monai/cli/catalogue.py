"""What ``medtl backbones``, ``heads`` and ``policies`` share: filtering, lists, and one entry in full."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence

from medtl_monai.cli.output import print_fields, print_json, print_note, print_table
from medtl_monai.errors import did_you_mean
from medtl_monai.host import Entry, Host, Kind
from medtl_monai.specs import BackboneSpec, HeadSpec, InputSpec, Parameter, WeightsSpec

Cells = Callable[[Entry], Sequence[str]]


def print_list(
    host: Host,
    kind: Kind,
    pattern: str | None,
    keep: Callable[[Entry], bool],
    *,
    json: bool,
    columns: Sequence[str],
    cells: Cells,
) -> None:
    """Print the entries of a kind that match a wildcard pattern and a filter.

    Args:
        host: The plugins.
        kind: backbone, head or policy.
        pattern: Wildcards (``*``, ``?``, ``[ab]``) for the short name, with a colon for the qualified one; None is all.
        keep: The command's own filter.
        json: Print a list of objects; an empty result is ``[]``.
        columns: Titles between the name and the summary.
        cells: Their texts for an entry.
    """
    entries = host.entries(kind)
    found = [entry for entry in entries if _matches(entry, pattern) and keep(entry)]
    if json:
        print_json([entry.to_json() for entry in found])
        return
    if found:
        shared = _shared_names(entries)
        rows = [(e.qualified if e.name in shared else e.name, *cells(e), e.spec.summary, e.plugin) for e in found]
        print_table(("Name", *columns, "Summary", "Plugin"), rows)
        return
    print_note(f"no {kind} matches. {_hint(entries, pattern)}")


def print_entry(host: Host, kind: Kind, name: str, *, json: bool) -> None:
    """Print every field of one spec.

    Raises:
        PluginError: If the name is unknown or ambiguous.
    """
    entry = host.resolve(kind, name).entry
    if json:
        print_json(entry.to_json())
        return
    spec = entry.spec
    fields = [
        ("Name", entry.qualified),
        ("Summary", spec.summary),
        ("Plugin", f"{entry.plugin} {entry.version}".strip()),
    ]
    if isinstance(spec, BackboneSpec):
        fields += _input_fields(spec.input)
    if isinstance(spec, HeadSpec):
        fields += [
            ("Task", spec.task),
            ("Target", spec.target),
            ("Dimensions", _join(spec.spatial_dims, " or ")),
            ("Stages needed", f"at least {spec.min_stages}"),
        ]
    fields += [
        ("Options", "\n".join(map(_parameter, spec.parameters)) or "none"),
        ("Licence", spec.license),
        ("Cite", "\n".join(spec.citations)),
        ("Built by", spec.build),
    ]
    print_fields(fields)
    if isinstance(spec, BackboneSpec):
        _print_stages(spec)
        _print_weights(spec.weights)


def weights_here(weights: WeightsSpec) -> bool:
    """Return whether these weights are on this machine; their hash is checked when they are used."""
    from medtl_monai.transfer.sources import is_here

    return is_here(weights.uris, weights.sha256)


def shape(values: Sequence[float]) -> str:
    """Return ``2×2×1`` for ``(2, 2, 1)``."""
    return "×".join(f"{value:g}" for value in values)


def _matches(entry: Entry, pattern: str | None) -> bool:
    return pattern is None or fnmatch.fnmatchcase(entry.qualified if ":" in pattern else entry.name, pattern)


def _hint(entries: Sequence[Entry], pattern: str | None) -> str:
    if not entries:
        return "None is on offer at all: 'medtl plugins' shows why."
    return did_you_mean(pattern, [entry.name for entry in entries]) if pattern else "Widen the filters."


def _shared_names(entries: Sequence[Entry]) -> set[str]:
    names = [entry.name for entry in entries]
    return {name for name in names if names.count(name) > 1}


def _input_fields(spec: InputSpec) -> list[tuple[str, str]]:
    look = spec.intensity
    values = [f"unit {look.unit}"]
    values += [f"clipped to {look.clip[0]:g} … {look.clip[1]:g}"] if look.clip else []
    if look.clip_percentiles:
        values.append(f"clipped to percentiles {look.clip_percentiles[0]:g} … {look.clip_percentiles[1]:g}")
    fixed = f" (mean {_join(look.mean)}, std {_join(look.std)})" if look.mean else ""
    values.append(f"normalised: {look.normalise}{fixed}")
    channels = _join(spec.channels) + (" (any number)" if spec.variable_channels else "")
    return [
        ("Dimensions", str(spec.spatial_dims)),
        ("Channels", channels),
        ("Modality", _join(spec.modality) or "any"),
        ("Intensity", ", ".join(values)),
        ("Spacing", f"{shape(spec.spacing_mm)} mm" if spec.spacing_mm else "each image's own"),
        ("Orientation", spec.orientation or "each image's own"),
        ("Size", shape(spec.size) if spec.size else "any"),
        ("Divisible by", shape(spec.divisible_by)),
        ("At least", shape(spec.min_size)),
    ]


def _print_stages(spec: BackboneSpec) -> None:
    rows = [(f"  {stage.name}", str(stage.channels), shape(stage.stride)) for stage in spec.stages]
    print_table(("  Stage", "Channels", "Stride"), rows)


def _print_weights(weights: Sequence[WeightsSpec]) -> None:
    if not weights:
        print_fields([("Weights", "none with this plugin: training starts from scratch, or from a finished run")])
        return
    rows = [
        (
            f"  {w.id}",
            w.method,
            _join(w.datasets),
            f"{w.bytes / 1e6:.1f} MB",
            w.license,
            "yes" if weights_here(w) else "no",
        )
        for w in weights
    ]
    print_table(("  Weights", "Method", "Data sets", "Size", "Licence", "Here"), rows)
    print_fields([("Cite weights", "\n".join(dict.fromkeys(w.citation for w in weights if w.citation)))])


def _parameter(parameter: Parameter) -> str:
    default = parameter.default
    text = "+".join(default) if isinstance(default, tuple) else str(default).lower()
    return f"{parameter.name}={text}" + (f"  {parameter.help}" if parameter.help else "")


def _join(values: Sequence[object], sep: str = ", ") -> str:
    return sep.join(str(value) for value in values)
