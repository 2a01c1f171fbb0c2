"""Models that a package gives only as part of a larger one, or with arguments of their own kind."""

from __future__ import annotations

import importlib
from typing import Any

from torch import Tensor, nn


class FirstMaps(nn.Module):
    """A backbone whose result is the plain tuple of its feature maps."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the feature maps, in order."""
        return tuple(self.backbone(x).values())


def large_kernel() -> nn.Module:
    """Build a depthwise 31x31 convolution under BatchNorm."""
    return nn.Sequential(nn.Conv2d(8, 8, 31, padding=15, groups=8, bias=False), nn.BatchNorm2d(8))


def raft_encoder() -> nn.Module:
    """Build the feature encoder of torchvision's RAFT."""
    models: Any = importlib.import_module("torchvision.models.optical_flow")
    return models.raft_large(weights=None).context_encoder


def ssdlite() -> nn.Module:
    """Build the backbone of torchvision's SSDlite."""
    models: Any = importlib.import_module("torchvision.models.detection")
    return FirstMaps(models.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None).backbone)


def resnet_fpn() -> nn.Module:
    """Build the backbone of torchvision's Faster R-CNN: frozen norms and a feature pyramid."""
    models: Any = importlib.import_module("torchvision.models.detection.backbone_utils")
    layers: Any = importlib.import_module("torchvision.ops.misc")
    return FirstMaps(
        models.resnet_fpn_backbone(backbone_name="resnet18", weights=None, norm_layer=layers.FrozenBatchNorm2d)
    )


def efficientnet() -> nn.Module:
    """Build EfficientNet-B0 of efficientnet_pytorch, whose padding is computed from the size."""
    package: Any = importlib.import_module("efficientnet_pytorch")
    return package.EfficientNet.from_name("efficientnet-b0")


def depth_anything() -> nn.Module:
    """Build a small Depth Anything of transformers."""
    package: Any = importlib.import_module("transformers")
    backbone = package.Dinov2Config(
        hidden_size=48,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=224,
        out_features=["stage1", "stage2", "stage3", "stage4"],
        reshape_hidden_states=False,
        apply_layernorm=True,
    )
    return package.DepthAnythingForDepthEstimation(
        package.DepthAnythingConfig(
            backbone_config=backbone,
            reassemble_hidden_size=48,
            neck_hidden_sizes=[24, 32, 40, 48],
            fusion_hidden_size=32,
            head_hidden_size=16,
        )
    )


def rtdetr() -> nn.Module:
    """Build a small RT-DETR of transformers."""
    package: Any = importlib.import_module("transformers")
    backbone = package.RTDetrResNetConfig(
        embedding_size=16,
        hidden_sizes=[16, 32, 48, 64],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    return package.RTDetrModel(
        package.RTDetrConfig(
            backbone_config=backbone,
            encoder_hidden_dim=32,
            encoder_attention_heads=4,
            encoder_ffn_dim=64,
            encoder_in_channels=[32, 48, 64],
            d_model=32,
            decoder_in_channels=[32, 32, 32],
            decoder_attention_heads=4,
            decoder_ffn_dim=64,
            decoder_layers=2,
            num_queries=20,
        )
    )


def superpoint_encoder() -> nn.Module:
    """Build the encoder of transformers' SuperPoint."""
    package: Any = importlib.import_module("transformers")
    parts: Any = importlib.import_module("transformers.models.superpoint.modeling_superpoint")
    return parts.SuperPointEncoder(package.SuperPointConfig(encoder_hidden_sizes=[16, 16, 32, 32]))


def vitmatte_head() -> nn.Module:
    """Build the convolution stream of transformers' ViTMatte."""
    package: Any = importlib.import_module("transformers")
    parts: Any = importlib.import_module("transformers.models.vitmatte.modeling_vitmatte")
    return parts.VitMatteConvStream(package.VitMatteConfig())
