"""The models of `python -m bench zoo`: one visible table of package, name, factory and input shape."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from torch import nn

from bench.zoo.verdict import MOST_SECONDS

Shape = tuple[int, ...]
IMAGE: Shape = (1, 3, 224, 224)


class Model(NamedTuple):
    """One row of the zoo.

    Attributes:
        package: the distribution that the model comes from.
        name: its name there.
        factory: builds the model with random weights; imports the package.
        shape: (N, channels, *size), or (N, samples) for models of audio.
        sizes: whether it takes images of other sizes.
        smallest: side, or samples, of the training step; small, and large enough for the model.
        convolutions: how many convolutions the deployed form has, where the authors published that; else None.
        most_seconds: that folding it may take.
    """

    package: str
    name: str
    factory: Callable[[], nn.Module]
    shape: Shape = IMAGE
    sizes: bool = True
    smallest: int = 64
    convolutions: int | None = None
    most_seconds: float = MOST_SECONDS

    @property
    def title(self) -> str:
        """The name of the row."""
        return f"{self.package}/{self.name}"


MODULES = {"authors": "torch"}
"""The module that a row's package is imported as, where that is not its name."""


def is_missing(package: str) -> bool:
    """Whether a package is not installed here."""
    return importlib.util.find_spec(MODULES.get(package, package)) is None


def _built(module: str, name: str, **options: Any) -> nn.Module:
    """Build what `module.name(**options)` gives."""
    factory: Any = getattr(importlib.import_module(module), name)
    return factory(**options)


def _made(module: str, function: str, *arguments: Any, **options: Any) -> nn.Module:
    """Build what `module.function(*arguments, **options)` gives."""
    factory: Any = getattr(importlib.import_module(module), function)
    return factory(*arguments, **options)


def _torchvision(name: str, shape: Shape = IMAGE, **options: Any) -> Model:
    factory = partial(_made, "torchvision.models", "get_model", name, weights=None, **options)
    return Model("torchvision", name, factory, shape)


def _timm(name: str, **fields: Any) -> Model:
    return Model("timm", name, partial(_made, "timm", "create_model", name, pretrained=False), **fields)


def _transformers(name: str, config: str, options: dict[str, Any] | None = None, **fields: Any) -> Model:
    return Model("transformers", name, partial(_configured, name, config, options or {}), **fields)


def _configured(name: str, config: str, options: dict[str, Any]) -> nn.Module:
    """Build a model of transformers from its configuration, changed by options."""
    package = importlib.import_module("transformers")
    return getattr(package, name)(getattr(package, config)(**options))


def _monai(name: str, options: dict[str, Any], shape: Shape, title: str = "") -> Model:
    return Model("monai", title or name, partial(_built, "monai.networks.nets", name, **options), shape, smallest=32)


def _pytorchcv(name: str, **fields: Any) -> Model:
    factory = partial(_made, "pytorchcv.model_provider", "get_model", name, pretrained=False)
    return Model("pytorchcv", name, factory, **({"smallest": 224} | fields))  # most end in a pooling of 7x7


def _segmentation(name: str, encoder: str) -> Model:
    factory = partial(_built, "segmentation_models_pytorch", name, encoder_name=encoder, encoder_weights=None)
    return Model("segmentation_models_pytorch", f"{name} {encoder}", factory)


def _ultralytics(name: str, task: str) -> Model:
    return Model("ultralytics", name, partial(_yolo, name, task))


def _yolo(name: str, task: str) -> nn.Module:
    """Build the network of a YOLO from the file that the package ships."""
    tasks: Any = importlib.import_module("ultralytics.nn.tasks")
    return getattr(tasks, task)(f"{name}.yaml", verbose=False)


def _spandrel(architecture: str, name: str, shape: Shape, **options: Any) -> Model:
    module = f"spandrel.architectures.{architecture}"
    return Model("spandrel", name, partial(_nested, module, name, options), shape, smallest=32)


def _nested(module: str, name: str, options: dict[str, Any]) -> nn.Module:
    """Build a network from the module in which a package hides it."""
    for candidate in _modules_of(module):
        if hasattr(candidate, name):
            return getattr(candidate, name)(**options)
    raise ImportError(f"{module} has no {name}")


def _modules_of(name: str) -> list[Any]:
    import pkgutil

    package: Any = importlib.import_module(name)
    names = [m.name for m in pkgutil.walk_packages(package.__path__, f"{name}.")]
    return [package, *map(importlib.import_module, names)]


def _authors(name: str, shape: Shape, convolutions: int) -> Model:
    factory = partial(_made, "bench.networks.authors", name)
    return Model("authors", name, factory, shape, convolutions=convolutions)


VIDEO: Shape = (1, 3, 8, 112, 112)
TORCHVISION = (
    *map(
        _torchvision,
        (
            "alexnet",
            "convnext_tiny",
            "densenet121",
            "efficientnet_b0",
            "efficientnet_v2_s",
            "mnasnet0_5",
            "mobilenet_v2",
            "mobilenet_v3_small",
            "mobilenet_v3_large",
            "regnet_x_400mf",
            "regnet_y_400mf",
            "resnet18",
            "resnet50",
            "resnext50_32x4d",
            "shufflenet_v2_x1_0",
            "squeezenet1_0",
            "vgg11_bn",
            "wide_resnet50_2",
        ),
    ),
    _torchvision("googlenet", init_weights=False)._replace(smallest=96),
    _torchvision("inception_v3", (1, 3, 299, 299), init_weights=False, aux_logits=False)._replace(smallest=96),
    _torchvision("deeplabv3_mobilenet_v3_large", weights_backbone=None),
    _torchvision("fcn_resnet50", weights_backbone=None),
    _torchvision("lraspp_mobilenet_v3_large", weights_backbone=None),
    _torchvision("r3d_18", VIDEO),
    _torchvision("r2plus1d_18", VIDEO),
    _torchvision("mc3_18", VIDEO),
    _torchvision("raft_small")._replace(factory=partial(_made, "bench.zoo.parts", "raft_encoder")),
    _torchvision("ssdlite320_mobilenet_v3_large")._replace(factory=partial(_made, "bench.zoo.parts", "ssdlite")),
    _torchvision("fasterrcnn_resnet50_fpn")._replace(factory=partial(_made, "bench.zoo.parts", "resnet_fpn")),
)
TIMM = (
    *map(
        _timm,
        (
            "convnext_atto",
            "cspdarknet53",
            "cspresnet50",
            "darknet53",
            "densenet121",
            "dla34",
            "dpn48b",
            "ecaresnet50t",
            "efficientnet_b0",
            "efficientvit_b0",
            "ese_vovnet19b_dw",
            "fbnetc_100",
            "gernet_s",
            "ghostnet_100",
            "hardcorenas_a",
            "hgnetv2_b0",
            "hrnet_w18_small",
            "lcnet_050",
            "mixnet_s",
            "mnasnet_small",
            "mobilenetv2_100",
            "mobilenetv3_small_100",
            "mobilenetv4_conv_small",
            "mobileone_s0",
            "nf_resnet50",
            "regnetx_002",
            "regnety_002",
            "repghostnet_050",
            "repvgg_a0",
            "res2net50_26w_4s",
            "resnest14d",
            "resnet18",
            "resnet18d",
            "resnetv2_50",
            "rexnet_100",
            "selecsls42b",
            "legacy_seresnet18",
            "seresnext26d_32x4d",
            "skresnet18",
            "starnet_s1",
            "tf_efficientnet_b0",
            "tf_efficientnetv2_b0",
            "tf_mixnet_s",
            "tf_mobilenetv3_small_100",
            "tinynet_e",
            "vgg11_bn",
            "xception41",
        ),
    ),
    _timm("botnet26t_256", shape=(1, 3, 256, 256), sizes=False),
    _timm("inception_v4", shape=(1, 3, 299, 299), smallest=96),
    *(
        _timm(name, sizes=False)
        for name in (
            "coat_lite_tiny",
            "edgenext_xx_small",
            "efficientformer_l1",
            "efficientformerv2_s0",
            "efficientvit_m0",
            "fastvit_t8",
            "levit_128s",
            "levit_conv_128s",
            "mobilevit_xxs",
            "mobilevitv2_050",
            "poolformer_s12",
            "repvit_m0_9",
            "shvit_s1",
            "swiftformer_xs",
            "tiny_vit_5m_224",
            "visformer_tiny",
        )
    ),
)
SMALL_RESNET = {"embedding_size": 16, "hidden_sizes": [32, 64, 96, 128], "depths": [2, 2, 2, 2]}
AUDIO = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 128,
    "conv_dim": (32,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
SOUND: dict[str, Any] = {"shape": (1, 16000), "smallest": 4000}
TRANSFORMERS = (
    _transformers("ResNetForImageClassification", "ResNetConfig", SMALL_RESNET | {"layer_type": "basic"}),
    _transformers("ResNetModel", "ResNetConfig", SMALL_RESNET),
    _transformers("RegNetModel", "RegNetConfig", SMALL_RESNET | {"groups_width": 16}),
    _transformers("ConvNextModel", "ConvNextConfig", {"hidden_sizes": [24, 48, 96, 192], "depths": [2, 2, 2, 2]}),
    _transformers("ConvNextV2Model", "ConvNextV2Config", {"hidden_sizes": [24, 48, 96, 192], "depths": [2, 2, 2, 2]}),
    _transformers("MobileNetV1Model", "MobileNetV1Config"),
    _transformers("MobileNetV2Model", "MobileNetV2Config"),
    _transformers("MobileNetV2ForSemanticSegmentation", "MobileNetV2Config"),
    _transformers("MobileViTModel", "MobileViTConfig"),
    _transformers("MobileViTV2Model", "MobileViTV2Config"),
    _transformers("LevitModel", "LevitConfig", sizes=False),
    _transformers(
        "EfficientNetModel",
        "EfficientNetConfig",
        {"depth_coefficient": 0.5, "width_coefficient": 0.5, "hidden_dim": 640},
    ),
    _transformers("BitModel", "BitConfig", {"hidden_sizes": [128, 128, 256, 256], "depths": [1, 1, 1, 1]}),
    _transformers("CvtModel", "CvtConfig"),
    _transformers("HGNetV2Backbone", "HGNetV2Config"),
    _transformers("SegformerForSemanticSegmentation", "SegformerConfig"),
    _transformers("PoolFormerModel", "PoolFormerConfig"),
    _transformers("FocalNetModel", "FocalNetConfig", {"depths": [1, 1, 2, 1], "embed_dim": 32}),
    _transformers("SwiftFormerModel", "SwiftFormerConfig"),
    _transformers("DepthAnythingForDepthEstimation", "DepthAnythingConfig")._replace(
        factory=partial(_made, "bench.zoo.parts", "depth_anything"), shape=(1, 3, 224, 224)
    ),
    _transformers("RTDetrModel", "RTDetrConfig")._replace(factory=partial(_made, "bench.zoo.parts", "rtdetr")),
    _transformers("SuperPointForKeypointDetection", "SuperPointConfig")._replace(
        factory=partial(_made, "bench.zoo.parts", "superpoint_encoder"), shape=(1, 1, 224, 224)
    ),
    _transformers("Swin2SRModel", "Swin2SRConfig", {"embed_dim": 30, "depths": [2, 2], "num_heads": [2, 2]}),
    _transformers("VitMatteForImageMatting", "VitMatteConfig")._replace(
        factory=partial(_made, "bench.zoo.parts", "vitmatte_head")
    ),
    _transformers("Wav2Vec2Model", "Wav2Vec2Config", AUDIO, **SOUND),
    _transformers("HubertModel", "HubertConfig", AUDIO, **SOUND),
    _transformers("WavLMModel", "WavLMConfig", AUDIO, **SOUND),
    _transformers("SEWModel", "SEWConfig", AUDIO | {"conv_dim": (32,) * 13, "squeeze_factor": 2}, **SOUND),
    _transformers(
        "EncodecModel",
        "EncodecConfig",
        {"num_filters": 8, "hidden_size": 32, "codebook_dim": 32},
        shape=(1, 1, 16000),
        smallest=4000,
    ),
    _transformers("DacModel", "DacConfig", shape=(1, 1, 16000), smallest=4000),
)
FLAT = {"spatial_dims": 2, "in_channels": 1, "out_channels": 2}
SOLID = {"spatial_dims": 3, "in_channels": 1, "out_channels": 2}
STEPS = {"channels": (8, 16, 32), "strides": (2, 2), "num_res_units": 2, "norm": "batch"}
GRAY: Shape = (1, 1, 224, 224)
CUBE: Shape = (1, 1, 64, 64, 64)
DYNAMIC = {"kernel_size": [3, 3, 3], "strides": [1, 2, 2], "upsample_kernel_size": [2, 2], "filters": [8, 16, 32]}
MONAI = (
    _monai("UNet", FLAT | STEPS, GRAY, "UNet 2-d"),
    _monai("UNet", SOLID | STEPS, CUBE, "UNet 3-d"),
    _monai("BasicUNet", FLAT | {"features": (8, 8, 16, 32, 64, 8), "norm": "batch"}, GRAY, "BasicUNet 2-d"),
    _monai("BasicUNet", SOLID | {"features": (8, 8, 16, 32, 64, 8), "norm": "batch"}, CUBE, "BasicUNet 3-d"),
    _monai("SegResNet", FLAT | {"init_filters": 8, "norm": "batch"}, GRAY, "SegResNet 2-d"),
    _monai("SegResNet", SOLID | {"init_filters": 8}, CUBE, "SegResNet 3-d, group norm"),
    _monai("DenseNet121", FLAT, GRAY, "DenseNet121 2-d"),
    _monai("VNet", FLAT | {"dropout_dim": 2}, GRAY, "VNet 2-d"),
    _monai("VNet", SOLID, CUBE, "VNet 3-d"),
    _monai("DynUNet", FLAT | DYNAMIC | {"norm_name": "batch"}, GRAY, "DynUNet 2-d"),
    _monai("DynUNet", SOLID | DYNAMIC | {"norm_name": "batch", "res_block": True}, CUBE, "DynUNet 3-d"),
    _monai("AttentionUnet", FLAT | {"channels": (8, 16, 32), "strides": (2, 2)}, GRAY, "AttentionUnet 2-d"),
    _monai("HighResNet", SOLID, (1, 1, 32, 32, 32), "HighResNet 3-d"),
    _monai("SEResNet50", {"spatial_dims": 2, "in_channels": 3, "num_classes": 10}, IMAGE, "SEResNet50 2-d"),
    _monai("resnet18", {"spatial_dims": 3, "n_input_channels": 1, "num_classes": 2}, CUBE, "resnet18 3-d"),
    _monai("BasicUNetPlusPlus", FLAT | {"features": (8, 8, 16, 32, 64, 8), "norm": "batch"}, GRAY),
)
PYTORCHCV = (
    *map(
        _pytorchcv,
        (
            "bagnet9",
            "bninception",
            "condensenet74_c4_g4",
            "dicenet_wd5",
            "fishnet99",
            "ghostnet",
            "hardnet39ds",
            "ibn_resnet50",
            "igcv3_wd2",
            "menet108_8x1_g3",
            "mobilenet_wd2",
            "peleenet",
            "preresnet18",
            "proxylessnas_cpu",
            "resattnet56",
            "sepreresnet18",
            "shufflenet_g3_wd2",
            "shufflenetv2b_wd2",
            "sqnxt23_w1",
            "vovnet27s",
        ),
    ),
    _pytorchcv("lwopenpose2d_mobilenet_cmupan_coco", smallest=64),
    _pytorchcv("simplepose_resnet18_coco", smallest=64),
    _pytorchcv("xdensenet40_2_k24_bc_cifar10", shape=(1, 3, 32, 32)),
)
EFFICIENTNET = (
    Model(
        "efficientnet_pytorch",
        "efficientnet-b0",
        partial(_made, "bench.zoo.parts", "efficientnet"),
    ),
)
SEGMENTATION = (
    _segmentation("Unet", "resnet18"),
    _segmentation("Unet", "timm-mobilenetv3_small_100"),
    _segmentation("UnetPlusPlus", "resnet18"),
    _segmentation("FPN", "resnet18"),
    _segmentation("DeepLabV3Plus", "mobilenet_v2"),
    _segmentation("PSPNet", "resnet18"),
    _segmentation("Linknet", "resnet18"),
    _segmentation("MAnet", "resnet18"),
    _segmentation("PAN", "resnet18")._replace(smallest=128),
)
ULTRALYTICS = (
    _ultralytics("yolov5n", "DetectionModel"),
    _ultralytics("yolov8n", "DetectionModel"),
    _ultralytics("yolov8n-seg", "SegmentationModel"),
    _ultralytics("yolov8n-cls", "ClassificationModel"),
    _ultralytics("yolov9t", "DetectionModel"),
    _ultralytics("yolov10n", "DetectionModel"),
    _ultralytics("yolo11n", "DetectionModel"),
    _ultralytics("yolo12n", "DetectionModel"),
    _ultralytics("rtdetr-resnet50", "RTDETRDetectionModel"),
)
UPSCALED: Shape = (1, 3, 64, 64)
SPANDREL = (
    _spandrel("ESRGAN", "RRDBNet", UPSCALED, num_filters=16, num_blocks=2),
    _spandrel("Compact", "SRVGGNetCompact", (1, 3, 360, 640), num_feat=16, num_conv=4),
    _spandrel("SPAN", "SPAN", UPSCALED, num_in_ch=3, num_out_ch=3, feature_channels=16),
    _spandrel("RealCUGAN", "UpCunet2x", (1, 3, 96, 96)),
    _spandrel("SAFMN", "SAFMN", UPSCALED, dim=16, n_blocks=2),
    _spandrel("PLKSR", "PLKSR", UPSCALED, dim=16, n_blocks=2),
)
AUTHORS = (
    _authors("mobileone_s0", IMAGE, 43),
    _authors("repvgg_a0", IMAGE, 22),
    _authors("diverse_branches", (1, 3, 64, 64), 2),
    _authors("ecbsr_m4c16", (1, 1, 64, 64), 6),
    Model(
        "authors",
        "one 31x31 layer",
        partial(_made, "bench.zoo.parts", "large_kernel"),
        (1, 8, 512, 512),
        most_seconds=2,
    ),
)
"""In the authors' own manner, with the published counts of the deployed form."""
MODELS: tuple[Model, ...] = (
    *AUTHORS,
    *TORCHVISION,
    *TIMM,
    *TRANSFORMERS,
    *MONAI,
    *PYTORCHCV,
    *EFFICIENTNET,
    *SEGMENTATION,
    *ULTRALYTICS,
    *SPANDREL,
)
"""Every row, in the order in which it runs."""
