"""Is frozen frozen? Every built-in backbone under every built-in policy, through the real training loop.

    .venv/bin/python benchmarks/frozen_matrix.py [--backbones resnet10-3d unet-3d] [--policies last-n gradual]

Small versions of the backbones are trained for two epochs by the engine that ``medtl train`` uses. What each epoch
freezes must be still, bit by bit:

- params: frozen parameters are unchanged after the epoch,
- buffers: so are buffers of frozen normalisation layers (running statistics),
- modes: a frozen stage gives the same output as in eval mode, in the mode in which the training loop left it,
- mates: its output for an image does not depend on the other images of the batch,
- trains: what is not frozen did change (without this, the rest would be easy).

Beside it, the same network and the same assertions under Lightning's ``BackboneFinetuning`` and under MONAI's
``freeze_layers`` with ``SupervisedTrainer``, both asked to freeze the whole backbone. The exit code is 1 where one of
our cells fails.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from ignite.engine import Events
from torch import Tensor, nn

SMALL = {
    "resnet": "features=8",
    "densenet121": "features=8,growth_rate=8,dropout=0.2",
    "efficientnet-b0": "",
    "segresnet": "init_filters=8",
    "unet": "levels=3,features=8,dropout=0.1",
    "dynunet": "levels=3,features=8,dropout=0.1",
    "swinunetr": "feature_size=12,window_size=2,drop_path=0.5",
}
POLICIES = {"last-n": "n=2", "gradual": "every=1", "lp-ft": "probe=0.5"}
PEERS = ("Lightning train_bn=True", "Lightning train_bn=False", "MONAI freeze_layers")
State = dict[str, Tensor]


def write_cases(folder: Path, dims: int) -> Path:
    """Write eight small images of two classes and their table; return the table."""
    rng = np.random.default_rng(0)
    rows = ["patient,image,kind"]
    for n in range(8):
        image = rng.normal(n % 2, 1, (32,) * dims).astype(np.float32)
        nib.save(nib.Nifti1Image(image, np.eye(4)), folder / f"{n}.nii")
        rows.append(f"P{n},{n}.nii,{'ab'[n % 2]}")
    table = folder / "labels.csv"
    table.write_text("\n".join(rows) + "\n")
    return table


def snapshot(module: nn.Module) -> State:
    """Return a copy of all tensors."""
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


class Judge:
    """Collects what fails of the five assertions."""

    def __init__(self) -> None:
        self.failed: list[str] = []

    def say(self, right: bool, what: str) -> None:
        """Note a failed assertion, once."""
        if not right and what not in self.failed:
            self.failed.append(what)

    def tensors(self, before: State, after: State, *, frozen: set[str], buffers: set[str], moving: set[str]) -> None:
        """Compare tensors before and after an epoch."""
        self.say(all(torch.equal(before[n], after[n]) for n in frozen), "params")
        self.say(all(torch.equal(before[n], after[n]) for n in buffers), "buffers")
        changed = sum(not torch.equal(before[n], after[n]) for n in moving)
        # A bias in front of a normalisation layer has no gradient; most of the rest must move.
        self.say(changed > len(moving) / 2, "trains")

    def outputs(self, backbone: Any, frozen: Sequence[int], image: Tensor, mates: Tensor) -> None:
        """Compare the outputs of frozen stages with those of eval mode, and of an image among other mates."""
        judge, state = copy.deepcopy(backbone).eval(), image
        probe = copy.deepcopy(backbone)  # statistics that move must not move in the network that trains
        other = torch.cat([image[:1], mates[1:]])
        with torch.no_grad(), torch.random.fork_rng():
            for k in range(len(backbone.stages)):
                expected = judge.run(state, k, k + 1)[0]
                if k in frozen:
                    self.say(torch.equal(probe.run(state, k, k + 1)[0], expected), "modes")
                    here = probe.run(other, k, k + 1)[0]
                    self.say(torch.equal(here[0], probe.run(state, k, k + 1)[0][0]), "mates")
                    self.say(bool(expected.std() > 0), "constant")
                state, other = expected, judge.run(other, k, k + 1)[0]

    @property
    def verdict(self) -> str:
        """PASS, or what fails."""
        return "PASS" if not self.failed else " ".join(self.failed)


def ours(table: Path, backbone: str, policy: str, folder: Path) -> str:
    """Train two epochs with the engine and return the verdict."""
    from medtl_monai.config import validate
    from medtl_monai.host import Host
    from medtl_monai.training.assemble import assemble
    from medtl_monai.training.datasets import load_datasets
    from medtl_monai.training.fit import Fit
    from medtl_monai.training.folder import RunFolder
    from medtl_monai.training.reporter import Silent
    from medtl_monai.training.tuning import Tuning
    from medtl_monai.transfer.stages import frozen_statistics

    config = validate(
        {
            "data": {"labels": str(table), "target": ["kind"], "group_by": "patient"},
            "splits": {"val": 0, "test": 0},
            "model": {"backbone": backbone, "policy": policy, "allow_random_frozen": True},
            "training": {"epochs": 2, "min_steps": 2, "batch_size": 4, "warmup": 0, "tune": False, "device": "cpu"},
            "cache": {"enabled": False},
        }
    )
    assembly = assemble(config, Host.load(), Silent())
    fit = Fit(assembly, load_datasets(assembly, Silent()), RunFolder.create(folder), Tuning(), Silent())
    judge, model = Judge(), fit.model
    before: State = {}

    def compare() -> None:
        frozen, buffers, moving = set(), set(), set()
        for stage in model.stages:
            rule = fit.freezer.row[stage.name]
            chosen = {entry.name for entry in stage.select(rule.params)}
            frozen |= {entry.name for entry in stage.parameters} - chosen
            moving |= chosen
            if frozen_statistics(rule):
                buffers |= set(stage.tensors) - {entry.name for entry in stage.parameters}
        judge.tensors(before, snapshot(model), frozen=frozen, buffers=buffers, moving=moving)

    def outputs() -> None:
        frozen = [k for k, name in enumerate(model.backbone.stages) if fit.freezer.row[name].frozen]
        images = [fit.trainer.state.batch.image, fit.trainer.state.batch.image.flip(0)]
        judge.outputs(model.backbone, frozen, *images)

    fit.trainer.add_event_handler(Events.EPOCH_STARTED, lambda: before.update(snapshot(model)))
    fit.trainer.add_event_handler(Events.ITERATION_COMPLETED, outputs)
    fit.trainer.add_event_handler(Events.EPOCH_COMPLETED, compare)
    fit.run()
    return judge.verdict


def network(backbone: str) -> tuple[Any, nn.Module]:
    """Build a backbone of ours and a linear head for another trainer."""
    from medtl_monai.host import Host

    choice = Host.load().resolve("backbone", backbone)
    torch.manual_seed(0)
    built = choice.build(in_channels=1)
    stages = built.stage_specs or choice.spec.stages
    return built, nn.Linear(stages[-1].channels, 2)


class Whole(nn.Module):
    """A backbone and a linear head on its pooled last map."""

    def __init__(self, backbone: Any, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        return self.head(self.backbone(x)[-1].flatten(2).mean(2))


def batches(dims: int) -> list[dict[str, Tensor]]:
    """Return four batches of two classes."""
    torch.manual_seed(1)
    label = torch.tensor([0, 1, 0, 1])
    return [{"image": torch.randn(4, 1, *(32,) * dims) + label.view(4, *[1] * (dims + 1)), "label": label}] * 4


def judged(net: Whole, train: Callable[[Callable[[], None]], None], data: list[dict[str, Tensor]]) -> str:
    """Train with a frozen backbone and return the verdict; ``train`` calls back after each step."""
    judge, before = Judge(), snapshot(net)
    image = data[0]["image"]
    train(lambda: judge.outputs(net.backbone, range(len(net.backbone.stages)), image, image.flip(0)))
    names = {f"backbone.{name}" for name, _ in net.backbone.named_parameters()}
    buffers = {name for name in before if name.startswith("backbone.")} - names
    moving = {name for name in before if name.startswith("head.")}
    judge.tensors(before, snapshot(net), frozen=names, buffers=buffers, moving=moving)
    return judge.verdict


def monai(backbone: str, dims: int) -> str:
    """Freeze with MONAI's ``freeze_layers`` and train with its ``SupervisedTrainer``."""
    from monai.engines import SupervisedTrainer
    from monai.networks.utils import freeze_layers

    net, data = Whole(*network(backbone)), batches(dims)
    freeze_layers(net, freeze_vars=r"^backbone\.")

    def train(after_step: Callable[[], None]) -> None:
        trainer = SupervisedTrainer(
            device=torch.device("cpu"),
            max_epochs=2,
            train_data_loader=data,
            network=net,
            optimizer=torch.optim.AdamW(net.parameters(), lr=1e-3),
            loss_function=nn.functional.cross_entropy,
            decollate=False,
        )
        trainer.add_event_handler(Events.ITERATION_COMPLETED, after_step)
        trainer.run()

    return judged(net, train, data)


def lightning(backbone: str, dims: int, *, train_bn: bool) -> str:
    """Freeze with Lightning's ``BackboneFinetuning``, which is to thaw only after the last epoch."""
    if importlib.util.find_spec("lightning") is None:
        return "not installed"
    import lightning.pytorch as pl
    from lightning.pytorch.callbacks import BackboneFinetuning

    net, data = Whole(*network(backbone)), batches(dims)

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.backbone = net, net.backbone

        def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
            return nn.functional.cross_entropy(self.net(batch["image"]), batch["label"])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            # As the documentation of the callback has it.
            return torch.optim.AdamW(filter(lambda p: p.requires_grad, self.parameters()), lr=1e-3)

    def train(after_step: Callable[[], None]) -> None:
        class After(pl.Callback):
            def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
                after_step()

        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        callbacks = [BackboneFinetuning(unfreeze_backbone_at_epoch=99, train_bn=train_bn), After()]
        trainer = pl.Trainer(accelerator="cpu", max_epochs=2, callbacks=callbacks, enable_model_summary=False, **quiet)
        trainer.fit(Module(), torch.utils.data.DataLoader(data, batch_size=None))

    return judged(net, train, data)


def peers(backbone: str, dims: int) -> dict[str, Callable[[], str]]:
    """Return the other libraries' ways to freeze, by column."""
    calls = (
        partial(lightning, backbone, dims, train_bn=True),
        partial(lightning, backbone, dims, train_bn=False),
        partial(monai, backbone, dims),
    )
    return dict(zip(PEERS, calls, strict=True))


def option(name: str) -> str:
    """Return the backbone with the options that make it small."""
    family = next(prefix for prefix in SMALL if name.startswith(prefix))
    return f"{name}:{SMALL[family]}" if SMALL[family] else name


def run(backbones: Sequence[str], policies: Sequence[str], folder: Path) -> bool:
    """Print both tables; return whether all of our cells pass."""
    from medtl_monai.builtin.backbones import SPECS

    specs = {spec.name: spec for spec in SPECS}
    tables = {}
    for dims in (2, 3):
        (folder / f"{dims}d").mkdir()
        tables[dims] = write_cases(folder / f"{dims}d", dims)
    passed, found = True, {}
    print(f"{'medtl':<20}" + "".join(f"{policy:>14}" for policy in policies))
    for name in backbones:
        spec = specs[name]
        print(f"{name:<20}", end="")
        for policy in policies:
            given = POLICIES.get(policy, "")
            if policy == "surgical":
                given = f"stages={spec.stages[1].name}"
            text = f"{policy}:{given}" if given else policy
            verdict = ours(tables[spec.input.spatial_dims], option(name), text, folder / f"{name}-{policy}")
            passed &= verdict == "PASS"
            print(f"{verdict:>14}", end="", flush=True)
        print()
        found[name] = {peer: call() for peer, call in peers(option(name), spec.input.spatial_dims).items()}
    print("\nThe whole backbone frozen: what does not hold")
    print(f"{'':<20}{'medtl':>14}" + "".join(f"{peer:>32}" for peer in PEERS))
    for name, row in found.items():
        print(f"{name:<20}{'see above':>14}" + "".join(f"{row[peer]:>32}" for peer in PEERS))
    return passed


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    from medtl_monai.builtin.backbones import SPECS as BACKBONES
    from medtl_monai.builtin.policies import SPECS as ALL

    names, policies = [spec.name for spec in BACKBONES], [spec.name for spec in ALL]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument("--policies", nargs="+", choices=policies, default=policies, metavar="NAME")
    options = parser.parse_args(argv)
    os.environ.setdefault("MEDTL_ID_KEY", "the key of this benchmark only")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory() as folder:
        return 0 if run(options.backbones, options.policies, Path(folder)) else 1


if __name__ == "__main__":
    sys.exit(main())
