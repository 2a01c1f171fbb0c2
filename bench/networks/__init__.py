"""Networks in the form in which they are trained, and how many convolutions each needs once it is deployed."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from torch import nn

from bench.networks import transformers_models as published
from bench.networks.acnet import acnet
from bench.networks.dbb import dbb
from bench.networks.depth import depth_neck
from bench.networks.ecb import ecbsr
from bench.networks.expandnet import expandnet, expandnet_kernels
from bench.networks.fastvit import fastvit
from bench.networks.mobilenet import mobilenet_v2
from bench.networks.mobileone import mobileone_s0, mobileone_small
from bench.networks.replknet import replknet
from bench.networks.repvgg import repvgg_a0, repvgg_grouped
from bench.networks.resnet import resnet18, resnet50
from bench.networks.vae import vae_decoder


class Network(NamedTuple):
    """A network to fold and what is known of it."""

    factory: Callable[
        [], nn.Module
    ]  # a model in eval mode, the same at each call; answers with a tensor or a tuple of them
    input_shape: tuple[int, int, int, int]
    deployed_convolutions: int  # convolutions and transposed ones that the deployed form computes
    exact_borders: bool  # whether one plain convolution for each merge gives the same values at the borders too
    source: str
    requires: str | None = None  # a package that not every install has


IMAGE = (1, 3, 64, 64)
REPVGG = "Ding et al., RepVGG: Making VGG-style ConvNets Great Again, CVPR 2021"
MOBILEONE = "Vasu et al., MobileOne: An Improved One Millisecond Mobile Backbone, CVPR 2023"
DBB = "Ding et al., Diverse Branch Block: Building a Convolution as an Inception-like Unit, CVPR 2021"
ACNET = "Ding et al., ACNet: Strengthening the Kernel Skeletons via Asymmetric Convolution Blocks, ICCV 2019"
ECB = "Zhang, Zeng, Zhang, Edge-oriented Convolution Block for Real-time Super Resolution, ACM MM 2021"
EXPANDNET = "Guo, Alvarez, Salzmann, ExpandNets: Linear Over-parameterization to Train Compact ConvNets, NeurIPS 2020"
REPLKNET = "Ding et al., Scaling Up Your Kernels to 31x31: Revisiting Large Kernel Design in CNNs, CVPR 2022"
FASTVIT = "Vasu et al., FastViT: A Fast Hybrid Vision Transformer using Structural Reparameterization, ICCV 2023"
MOBILENET = "Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, CVPR 2018"
RESNET = "He et al., Deep Residual Learning for Image Recognition, CVPR 2016"
DPT = "Ranftl, Bochkovskiy, Koltun, Vision Transformers for Dense Prediction, ICCV 2021"
LATENT = "Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, CVPR 2022"
RTDETR = "Zhao et al., DETRs Beat YOLOs on Real-time Object Detection, CVPR 2024"
ANYTHING = "Yang et al., Depth Anything: Unleashing the Power of Large-Scale Unlabeled Data, CVPR 2024"

NETWORKS: dict[str, Network] = {
    # One for each block: 1 + 2 + 4 + 14 + 1, and 1 + 2 + 3 + 2.
    "repvgg_a0": Network(repvgg_a0, IMAGE, 22, True, REPVGG),
    "repvgg_grouped": Network(repvgg_grouped, IMAGE, 8, True, REPVGG),
    # The stem, then a depthwise and a pointwise one for each of the 2 + 8 + 5 + 5 + 1 (1 + 2) pairs.
    "mobileone_s0": Network(mobileone_s0, IMAGE, 43, True, MOBILEONE),
    "mobileone_small": Network(mobileone_small, IMAGE, 7, True, MOBILEONE),
    # One for each of the five blocks.
    "dbb": Network(dbb, IMAGE, 5, True, DBB),
    "dbb_assigned": Network(partial(dbb, assigned=True), IMAGE, 5, True, DBB),
    # One for each of the four blocks.
    "acnet": Network(acnet, IMAGE, 4, True, ACNET),
    # One for each block: the first, four, the last. Zeros between 1x1 and 3x3, as in quick rewrites, cost the exact borders.
    "ecbsr": Network(ecbsr, (1, 1, 32, 32), 6, True, ECB),
    "ecbsr_zeros_between": Network(partial(ecbsr, padded_first=False), (1, 1, 32, 32), 6, False, ECB),
    # One for each of the three expanded layers, and of the two that are rows of 3x3.
    "expandnet": Network(expandnet, IMAGE, 3, True, EXPANDNET),
    "expandnet_zeros_between": Network(partial(expandnet, padded_first=False), IMAGE, 3, False, EXPANDNET),
    "expandnet_kernels": Network(expandnet_kernels, IMAGE, 2, True, EXPANDNET),
    # Four of the stem; 1x1, large kernel, 1x1 and the two 1x1 after it in each of two blocks: 4 + 2 * 5.
    "replknet": Network(replknet, IMAGE, 14, True, REPLKNET),
    # Stem 3, then mixer 1 + feed-forward 3 for each of two blocks, embedding 2, and one block: 3 + 2 * 4 + 2 + 4.
    "fastvit": Network(fastvit, IMAGE, 17, True, FASTVIT),
    # Stem, the first block's 2, three in each of the 16 others, the last 1x1: nothing but BatchNorm goes.
    "mobilenet_v2": Network(mobilenet_v2, IMAGE, 52, True, MOBILENET),
    # Stem, 8 blocks of 2 (16 of 3), and 3 (4) shortcuts.
    "resnet18": Network(resnet18, IMAGE, 20, True, RESNET),
    "resnet50": Network(resnet50, IMAGE, 53, True, RESNET),
    # The paper deploys what it trains: 4 + 3 + 4 of the levels, 3 + 3 * 5 of the fusions, 3 of the head = 32. Two chains
    # take less time as one: each transposed convolution with its 3x3. Two more form fewer products (the last level's
    # 1x1 with its strided 3x3, the last fusion's 1x1 with the head's first 3x3), but not by as much as correcting their
    # borders takes at this size: all four have a bias before zero padding.
    "depth_neck": Network(depth_neck, (1, 48, 6, 8), 30, False, DPT),
    # The paper deploys what it trains. Enlargement and 3x3 become one transposed convolution, so that no fewer are
    # left: 1 + 2 + (2 + 1) + (3 + 1) + 2 + 1. The 1x1 after the codebook could go into the 3x3 that follows, but its bias
    # meets zero padding there, and the border correction of 64 channels takes more products than a 1x1 of 4 has.
    "vae_decoder": Network(vae_decoder, (1, 4, 16, 16), 13, True, LATENT),
    "vae_decoder_quantised": Network(partial(vae_decoder, quantised=True), (1, 4, 16, 16), 14, False, LATENT),
    # One.
    "rtdetr_block": Network(published.rtdetr_block, (1, 32, 16, 16), 1, True, RTDETR, "transformers"),
    # Two 1x1, three blocks, a last 1x1.
    "rtdetr_csp": Network(published.rtdetr_csp, (1, 64, 16, 16), 6, True, RTDETR, "transformers"),
    # Stem 3, five layers of 3, four shortcuts: nothing but frozen BatchNorm goes.
    "rtdetr_backbone": Network(published.rtdetr_backbone, IMAGE, 22, True, RTDETR, "transformers"),
    # Backbone 3 + 5 * 2 + 4, projections 3, laterals 2, downsampling 2, and 2 + 3 in each of four CSP layers.
    "rtdetr_encoder": Network(published.rtdetr_encoder, IMAGE, 44, True, RTDETR, "transformers"),
    # As depth_neck.
    "depth_anything": Network(published.depth_anything, (1, 48, 6, 8), 30, False, ANYTHING, "transformers"),
}
