"""A head for positive numbers, such as volumes: it learns their logarithm and never predicts a negative one."""

import math

from monai.metrics import MAEMetric
from torch import nn

from medtl_monai.plugin import Head, HeadSpec, Metric, Prediction, hookimpl


class LogHead(Head):
    def __init__(self, context):
        super().__init__()
        self.linear = nn.Linear(context.stages[-1].channels, len(context.target.columns))
        nn.init.constant_(self.linear.bias, math.log(context.target.mean[0]))

    def forward(self, features, batch):
        return self.linear(features[-1].flatten(2).mean(2))

    def loss(self, output, batch):
        return nn.functional.l1_loss(output, batch.labels().log())

    def predict(self, output, batch):
        return Prediction(values=output.exp())

    def metrics(self):
        return {"error_ml": Metric(fn=MAEMetric(), inputs=lambda p, batch: (p.values, batch.labels()), mode="min")}


@hookimpl
def medtl_heads():
    yield HeadSpec(
        name="log-volume",
        summary="A positive number, learnt as its logarithm",
        build=":LogHead",
        task="regression",
        target="number",
        license="CC0-1.0",
    )
