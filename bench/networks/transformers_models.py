"""Modules of published detectors and depth estimators as the package `transformers` writes them, from small configurations.

The package is imported where a model is built, so that the table of networks can be read without it.
"""

from torch import Tensor, nn
from torch.nn import functional

from bench.networks.layers import convolution_norm
from bench.networks.randomise import randomised

CHANNELS = 32  # of RT-DETR's encoder
DEPTH = {"reassemble_hidden_size": 48, "neck_hidden_sizes": (24, 32, 40, 48), "fusion_hidden_size": 32}


class FeatureMaps(nn.Module):
    """A backbone whose answer is the plain tuple of its feature maps."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.backbone(x).feature_maps)


class Detector(nn.Module):
    """An image to the encoder's three maps: backbone, a 1x1 with BatchNorm for each level, hybrid encoder."""

    def __init__(self, backbone: nn.Module, projections: list[nn.Module], encoder: nn.Module) -> None:
        super().__init__()
        self.backbone = FeatureMaps(backbone)
        self.projections = nn.ModuleList(projections)
        self.encoder = encoder

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        maps = [project(m) for project, m in zip(self.projections, self.backbone(x))]
        return tuple(self.encoder(maps).last_hidden_state)


class Depth(nn.Module):
    """A map of patches, read as the tokens of all four levels, through a neck and a head."""

    def __init__(self, neck: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.neck, self.head = neck, head

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        tokens = functional.pad(x.flatten(2).transpose(1, 2), (0, 0, 1, 0))  # the class token, which the neck drops
        return self.head(self.neck([tokens] * 4, height, width), height, width)


def _rtdetr_config(**changes: object):
    from transformers import RTDetrConfig

    encoder = {"encoder_hidden_dim": CHANNELS, "encoder_attention_heads": 4, "encoder_ffn_dim": 64}
    return RTDetrConfig(**encoder, **changes)


def _rtdetr_backbone(layer_type: str, hidden_sizes: list[int]) -> nn.Module:
    from transformers import RTDetrResNetBackbone, RTDetrResNetConfig
    from transformers.models.rt_detr.modeling_rt_detr import replace_batch_norm

    backbone = RTDetrResNetBackbone(
        RTDetrResNetConfig(
            embedding_size=16,
            hidden_sizes=hidden_sizes,
            depths=[1, 2, 1, 1],
            layer_type=layer_type,
            out_features=["stage2", "stage3", "stage4"],
        )
    )
    replace_batch_norm(backbone)  # by the frozen one, a product and a sum with buffers
    return backbone


def rtdetr_block() -> nn.Module:
    from transformers.models.rt_detr.modeling_rt_detr import RTDetrRepVggBlock

    return randomised(RTDetrRepVggBlock(_rtdetr_config()))


def rtdetr_csp(hidden_expansion: float = 0.5) -> nn.Module:
    from transformers.models.rt_detr.modeling_rt_detr import RTDetrCSPRepLayer

    return randomised(RTDetrCSPRepLayer(_rtdetr_config(hidden_expansion=hidden_expansion)))


def rtdetr_backbone(layer_type: str = "bottleneck") -> nn.Module:
    return randomised(FeatureMaps(_rtdetr_backbone(layer_type, [32, 64, 96, 128])))


def rtdetr_encoder() -> nn.Module:
    from transformers.models.rt_detr.modeling_rt_detr import RTDetrHybridEncoder

    hidden_sizes = [16, 32, 48, 64]
    projections = [convolution_norm(channels, CHANNELS) for channels in hidden_sizes[1:]]
    config = _rtdetr_config(encoder_in_channels=hidden_sizes[1:])
    return randomised(Detector(_rtdetr_backbone("basic", hidden_sizes), projections, RTDetrHybridEncoder(config)))


def depth_anything() -> nn.Module:
    from transformers import DepthAnythingConfig
    from transformers.models.depth_anything.modeling_depth_anything import (
        DepthAnythingDepthEstimationHead,
        DepthAnythingNeck,
    )

    config = DepthAnythingConfig(**DEPTH, head_hidden_size=16, depth_estimation_type="metric", max_depth=20)
    return randomised(Depth(DepthAnythingNeck(config), DepthAnythingDepthEstimationHead(config)))
