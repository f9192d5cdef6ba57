"""What is frozen is computed once: phase by phase, where it can be done and pays."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from functools import partial

import psutil

from medtl_monai.config import CacheConfig, TrainingConfig
from medtl_monai.data.cache.places import choose_folder
from medtl_monai.data.dataset import Draw
from medtl_monai.data.loader import EpochSampler, view
from medtl_monai.data.prepared import larger
from medtl_monai.errors import ConfigError
from medtl_monai.files import write_json
from medtl_monai.modules import Batch
from medtl_monai.training.assemble import Assembly
from medtl_monai.training.datasets import Datasets
from medtl_monai.training.features import Disk, Features, Maker, PhaseLoader
from medtl_monai.training.folder import RunFolder
from medtl_monai.training.prefix_plan import Choice, Room, Uses, choose, mebibytes
from medtl_monai.training.prefix_probe import Probe, made_from, probe_prefix
from medtl_monai.training.reporter import Reporter
from medtl_monai.training.tuning import Tuning, format_batch
from medtl_monai.transfer.packing import Packing

RECORD = "prefix.json"
"""File of the run folder that says what was chosen, reused when the run is resumed."""

MEMORY_SHARE = 0.25
"""Share of the free memory that features may take."""

DISK_SHARE = 0.5
"""Share of the cache's bound, and of the free disk, that features may take."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ability:
    """What of a run's data can be computed once.

    Attributes:
        fixed: Whether training items are always the same.
        train: Why training items cannot be computed once; empty if they can.
        val: Whether validation images can.
    """

    fixed: bool
    train: str
    val: bool


class PrefixPlanner:
    """Decides for each phase what is computed once.

    Args:
        assembly: The run; the model on its device.
        datasets: Its images.
        tuning: Arithmetic and memory format.

    Raises:
        ConfigError: If features are to be kept on disk and there is no cache.
    """

    def __init__(self, assembly: Assembly, datasets: Datasets, tuning: Tuning) -> None:
        self._assembly = assembly
        self._datasets = datasets
        self._tuning = tuning
        self._probe: Probe | None = None
        self._ability: Ability | None = None
        config = self._config
        if config.prefix_cache == "disk" and choose_folder(assembly.config.cache) is None:
            mend = "Switch the cache on (cache.enabled, MEDTL_CACHE), or use prefix_cache=memory"
            raise ConfigError(
                "features are to be on disk, and the cache is off", where="training.prefix_cache", mend=mend
            )

    @property
    def _config(self) -> TrainingConfig:
        return self._assembly.config.training

    def probe(self) -> Probe:
        """Return what one batch told, for at least as many stages as are frozen now."""
        model = self._assembly.model
        if self._probe is None or len(self._probe.layouts) < model.frozen_prefix:
            self._probe = probe_prefix(model, self.batch())
        return self._probe

    def batch(self) -> Batch:
        """Return a training batch as the model sees it."""
        # Two images tell as much as more, and one is too few for normalisation layers.
        batch = self._datasets.probe(2).to(self._assembly.device)
        return format_batch(batch, self._tuning.channels_last)

    def ability(self) -> Ability:
        """Return what can be computed once."""
        if self._ability is None:
            train, val = self._datasets.train, self._datasets.val
            fixed = not train.random
            self._ability = Ability(
                fixed=fixed, train=self._objection(fixed), val=val is not None and self._val_whole()
            )
        return self._ability

    def choose(self, epoch: int, plateaus: int = 0) -> Choice:
        """Decide for the phase that starts with an epoch; its rules must be in force."""
        config, model = self._config, self._assembly.model
        boundary = model.frozen_prefix
        plain = Choice(boundary=boundary, epoch=epoch)
        if boundary == 0 or config.prefix_cache == "off":
            return plain
        uses = self._uses(epoch, plateaus)
        ability = self.ability()
        if not uses.train and not uses.val:
            return dataclasses.replace(plain, why=ability.train)
        if config.prefix_cache == "auto" and uses.used <= uses.computed:
            return dataclasses.replace(plain, why=ability.train or "no image goes through them twice")
        probe = self.probe()
        if probe.objection:
            return dataclasses.replace(plain, why=probe.objection)
        half = config.prefix_dtype == "bf16" and model.precision == "fp32"
        room = self._room(self._assembly.config.cache)
        chosen = choose(probe.measured, uses, room, boundary=boundary, epoch=epoch, mode=config.prefix_cache, half=half)
        return dataclasses.replace(chosen, why=self._sentence(chosen, uses, ability) if chosen.start else chosen.why)

    def everything(self) -> bool:
        """Whether all of the backbone is computed once for the whole run, so that its speed hardly matters."""
        table = self._assembly.schedule
        whole = sum(stage.role == "backbone" for stage in table.stages)
        uses = self._uses(0, 0) if self._config.prefix_cache != "off" else None
        frozen = all(table.frozen_prefix(*cell) == whole for cell in table.cells)
        return frozen and uses is not None and uses.train > 0 and uses.used > 2 * uses.computed

    def packing(self, choice: Choice) -> Packing:
        """Return what is kept of each image."""
        measured = self.probe().measured
        return Packing.plan(
            choice.start,
            stages=measured.stages,
            needed=measured.needed,
            shared=measured.shared[choice.start - 1],
            bf16=self._config.prefix_dtype == "bf16",
        )

    def _uses(self, epoch: int, plateaus: int) -> Uses:
        config, ability, table = self._config, self.ability(), self._assembly.schedule
        boundary = table.frozen_prefix(epoch, plateaus)
        last = epoch
        while last + 1 < table.epochs and table.frozen_prefix(last + 1, plateaus) == boundary:
            last += 1
        cases = len(self._datasets.train)
        passes = EpochSampler(cases, config.batch_size, config.min_steps).passes
        views = 1 if ability.fixed else config.views or 0
        train, train_uses = 0 if ability.train else cases * views, cases * passes
        if config.prefix_cache == "auto" and train >= (last + 1 - epoch) * train_uses:
            train = 0
        val = len(self._datasets.val) if ability.val and self._datasets.val is not None else 0
        return Uses(epochs=last + 1 - epoch, train=train, train_uses=train_uses, val=val)

    def _objection(self, fixed: bool) -> str:
        train, preprocessing = self._datasets.train, self._assembly.data.preprocessing
        if not fixed and self._config.views is None:
            return "training images change at random; training.views=8 would use 8 versions of each, computed once"
        if self._config.batch_size > 1:
            patch = preprocessing.patch_size
            sizes = {size if patch is None else tuple(map(min, size, patch)) for size in train.sizes()}
            if len(sizes) > 1:
                return "training images differ in size, and padding depends on the others of a batch"
        return ""

    def _val_whole(self) -> bool:
        """Whether validation looks at whole images, not at windows."""
        patch, val = self._assembly.data.preprocessing.patch_size, self._datasets.val
        return val is not None and (patch is None or not any(larger(size, patch) for size in val.sizes()))

    def _room(self, cache: CacheConfig) -> Room:
        memory = int(psutil.virtual_memory().available * MEMORY_SHARE)
        folder = choose_folder(cache)
        if self._datasets.disk is None or folder is None:
            return Room(memory=memory, disk=0)
        free = shutil.disk_usage(folder).free
        return Room(memory=memory, disk=int(DISK_SHARE * min(self._datasets.disk.features().max_bytes, free)))

    def _sentence(self, choice: Choice, uses: Uses, ability: Ability) -> str:
        names = list(self._assembly.model.backbone.stages)
        span = names[0] if choice.start == 1 else f"{names[0]} to {names[choice.start - 1]}"
        what = f"{uses.train} training items" if uses.train else ""
        if uses.train and not ability.fixed:
            what += f" ({self._config.views} views of each case)"
        what += (" and " if uses.train and uses.val else "") + (f"{uses.val} validation images" if uses.val else "")
        size = mebibytes(choice.bytes)
        stored = "on disk" if choice.where == "disk" else "in memory" + (", kept on disk" if choice.kept else "")
        text = f"{span} computed once for {what}: {size} {stored}, in place of {uses.used} times"
        if choice.start < choice.boundary:
            again = ", ".join(names[choice.start : choice.boundary])
            text += f"; {again} frozen but computed every time, which takes less than its results would"
        return text + (f"; training items every time ({ability.train})" if ability.train else "")


class FrozenPrefix:
    """Puts what was decided into effect, epoch by epoch.

    Args:
        assembly: The run.
        datasets: Its images.
        folder: Where decisions are recorded.
        tuning: Arithmetic and memory format.
        reporter: Who is told.
        train: Gives training batches.
        val: Gives validation batches, if there are any.
    """

    def __init__(
        self,
        assembly: Assembly,
        datasets: Datasets,
        folder: RunFolder,
        tuning: Tuning,
        reporter: Reporter,
        train: PhaseLoader,
        val: PhaseLoader | None,
    ) -> None:
        self._assembly = assembly
        self._datasets = datasets
        self._folder = folder
        self._tuning = tuning
        self._reporter = reporter
        self._train = train
        self._val = val
        self._planner = PrefixPlanner(assembly, datasets, tuning)
        self._boundary = 0
        self._current = Choice(boundary=0, epoch=0)
        self._choices = _read(folder)

    def enter(self, epoch: int, plateaus: int = 0) -> None:
        """Make features for an epoch whose rules are in force, unless those that there are will do.

        Raises:
            MedtlError: What reading an image raises.
        """
        boundary = self._assembly.model.frozen_prefix
        if boundary == self._boundary:
            return
        self._boundary = boundary
        if boundary < self._current.start:
            self._drop()
        if boundary == 0 or self._assembly.config.training.prefix_cache == "off":
            return
        choice = self._choices.get(boundary) or self._decide(epoch, plateaus)
        if choice.start and choice.start == self._current.start:
            return
        self._drop()
        if choice.start:
            self._make(choice)
            self._release(choice, epoch, plateaus)

    def _decide(self, epoch: int, plateaus: int) -> Choice:
        if self._current.start:
            # The phase before went on from a stage that is still frozen.
            choice = dataclasses.replace(self._current, boundary=self._boundary, epoch=epoch)
        else:
            choice = self._planner.choose(epoch, plateaus)
        self._choices[choice.boundary] = choice
        decisions = [dataclasses.asdict(each) for each in self._choices.values()]
        write_json(self._folder.path / RECORD, {"decisions": decisions})
        if choice.start:
            self._reporter.note(f"from epoch {epoch + 1}: {choice.why}")
        elif choice.why:
            self._reporter.note(f"from epoch {epoch + 1}: frozen stages are computed in every step: {choice.why}")
        return choice

    def _make(self, choice: Choice) -> None:
        assembly, config = self._assembly, self._assembly.config.training
        packing = self._planner.packing(choice)
        layouts = self._planner.probe().layouts_of(packing)
        maker = Maker(
            model=assembly.model,
            packing=packing,
            device=assembly.device,
            channels_last=self._tuning.channels_last,
            layouts=layouts,
        )
        size = min(config.batch_size, len(self._datasets.train))
        kept = choice.kept and self._datasets.disk is not None
        made = made_from(assembly.model, packing, layouts, self._tuning, self._planner.batch()) if kept else ""

        def disk(images: int) -> Disk | None:
            if not made or self._datasets.disk is None:
                return None
            # The last bits may depend on how many images are computed at a time.
            return Disk(cache=self._datasets.disk.features(), made=f"{made} {images}", mapped=choice.where == "disk")

        fixed = self._planner.ability().fixed
        found = 0
        if choice.train:
            features = Features(self._datasets.train, maker, batch_size=size, fixed=fixed, disk=disk(size))
            draws = self._draws(fixed)
            features.prepare(draws, _counter(self._reporter, "computing frozen layers (training)", len(draws)))
            self._train.features, found = features, features.found
        if choice.val and self._val is not None and self._datasets.val is not None:
            features = Features(self._datasets.val, maker, batch_size=1, fixed=True, disk=disk(1))
            draws = [Draw(n) for n in range(len(self._datasets.val))]
            features.prepare(draws, _counter(self._reporter, "computing frozen layers (validation)", len(draws)))
            self._val.features, found = features, found + features.found
        if found:
            self._reporter.note(f"{found} results of frozen layers came from the cache")
        self._current = choice

    def _draws(self, fixed: bool) -> list[Draw]:
        config, cases = self._assembly.config.training, range(len(self._datasets.train))
        if fixed:
            return [Draw(n) for n in cases]
        return [view(config.seed, n, number) for number in range(config.views or 0) for n in cases]

    def _drop(self) -> None:
        self._current = Choice(boundary=0, epoch=0)
        self._train.features = None
        if self._val is not None:
            self._val.features = None

    def _release(self, choice: Choice, epoch: int, plateaus: int) -> None:
        """Let go of images that no later epoch asks for."""
        table = self._assembly.schedule
        later = [table.frozen_prefix(e, p) for e, p in table.cells if e >= epoch and p >= plateaus]
        if min(later) < choice.start:
            return
        if choice.train:
            self._datasets.train.release()
        if choice.val and self._datasets.val is not None:
            self._datasets.val.release()


def _counter(reporter: Reporter, what: str, total: int) -> Callable[[int], None]:
    return partial(reporter.count, what, total=total)


def _read(folder: RunFolder) -> dict[int, Choice]:
    if not (folder.path / RECORD).is_file():
        return {}
    choices = map(Choice.from_json, folder.read_json(RECORD)["decisions"])
    return {choice.boundary: choice for choice in choices}


def plan_phases(assembly: Assembly, datasets: Datasets, tuning: Tuning) -> list[Choice]:
    """Say what would be decided for each phase, without plateaus; for showing a plan."""
    planner, table = PrefixPlanner(assembly, datasets, tuning), assembly.schedule
    choices: list[Choice] = []
    for epoch in range(table.epochs):
        if not choices or table.frozen_prefix(epoch) != choices[-1].boundary:
            assembly.model.set_rules(table.row(epoch))
            choices.append(planner.choose(epoch))
    return choices
