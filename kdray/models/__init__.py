"""Networks: built by name, one forward for all of them.

net = build(spec, num_classes=100, image_size=32)      # spec: .model and, if there, .params, .stages, .pooled
load_weights(net, "s3://bucket/resnet56.safetensors")
net(images, stages=True)                               # Outputs(logits, pooled, stages, preact)
"""

from kdray.models.export import export_bytes, export_program, load_exported
from kdray.models.outputs import ModelInfo, Net, Outputs
from kdray.models.weights import LoadReport, load_weights
from kdray.models.zoo import ModelRow, build, describe, list_models

__all__ = [
    "LoadReport",
    "ModelInfo",
    "ModelRow",
    "Net",
    "Outputs",
    "build",
    "describe",
    "export_bytes",
    "export_program",
    "list_models",
    "load_exported",
    "load_weights",
]
