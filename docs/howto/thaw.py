"""Thaw the backbone from its first stage upwards, one more stage every few epochs."""

from dataclasses import dataclass

from medtl_monai.plugin import FreezePolicy, Parameter, PolicySpec, Rule, hookimpl


@dataclass(frozen=True)
class ThawFromBelow(FreezePolicy):
    every: int = 3

    def __call__(self, at, stages):
        backbone = [stage for stage in stages if stage.role == "backbone"]
        thawed = {stage.name for stage in backbone[: at.epoch // self.every]}
        return {
            stage.name: Rule()
            for stage in stages
            if stage.role != "backbone" or stage.name in thawed or not stage.pretrained
        }


@hookimpl
def medtl_freeze_policies():
    yield PolicySpec(
        name="thaw-from-below",
        summary="One more stage from below every few epochs",
        build=":ThawFromBelow",
        parameters=(Parameter(name="every", default=3, help="Epochs before the next stage joins."),),
        license="CC0-1.0",
    )
