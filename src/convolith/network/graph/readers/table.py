"""The table of readers, by the name of the operator."""

from __future__ import annotations

from collections.abc import Sequence

from convolith.network.graph.readers.arguments import Reader
from convolith.network.graph.readers.elementwise import (
    added_product,
    clamp,
    elementwise,
    elu,
    gelu,
    hard_sigmoid,
    scaled,
)
from convolith.network.graph.readers.layers import batched_product, convolution, matrix_product, matrix_product_and_sum
from convolith.network.graph.readers.moves import (
    alias,
    channel_select,
    channel_shuffle,
    channel_slice,
    channel_split,
    join,
    nearest,
    padding,
    pixel_shuffle,
    pixel_unshuffle,
    resize,
    same_memory,
    scatter,
)
from convolith.network.graph.readers.norms import batch_norm, group_norm, layer_norm, softmax
from convolith.network.graph.readers.pooling import Pooling, adaptive_pool, mean


def _names(*names: str, reader: Reader) -> dict[str, Reader]:
    return dict.fromkeys((f"aten.{name}" for name in names), reader)


VIEWS: Sequence[str] = (
    *("view.default", "_unsafe_view.default", "reshape.default", "unsqueeze.default", "squeeze.default", "squeeze.dim"),
    *(
        "squeeze.dims",
        "alias.default",
        "detach.default",
        "flatten.using_ints",
        "expand.default",
        "_reshape_alias.default",
    ),
)
READERS: dict[str, Reader] = {
    **_names("convolution.default", reader=convolution),
    **_names("addmm.default", reader=matrix_product_and_sum),
    **_names("mm.default", reader=matrix_product),
    **_names("bmm.default", reader=batched_product),
    **_names("relu.default", reader=elementwise(lambda x: ("at_least", x, 0.0))),
    **_names("hardtanh.default", reader=elementwise(lambda x, low=-1, high=1: clamp(x, low, high))),
    **_names("clamp.default", reader=elementwise(clamp)),
    **_names("clamp_min.default", reader=elementwise(lambda x, low: clamp(x, low))),
    **_names("clamp_max.default", reader=elementwise(lambda x, high: clamp(x, None, high))),
    **_names("leaky_relu.default", reader=elementwise(lambda x, slope=0.01: ("leaky", x, float(slope)))),
    **_names("_prelu_kernel.default", reader=elementwise(lambda x, slope: ("leaky", x, slope), 2)),
    **_names("silu.default", reader=elementwise(lambda x: ("silu", x))),
    **_names("sigmoid.default", reader=elementwise(lambda x: ("sigmoid", x))),
    **_names("tanh.default", reader=elementwise(lambda x: ("tanh", x))),
    **_names("exp.default", reader=elementwise(lambda x: ("exponential", x))),
    **_names("gelu.default", reader=elementwise(gelu)),
    **_names("mish.default", reader=elementwise(lambda x: ("mish", x))),
    **_names("elu.default", reader=elementwise(elu)),
    **_names("hardsigmoid.default", reader=elementwise(hard_sigmoid)),
    **_names("hardswish.default", reader=elementwise(lambda x: ("multiply", x, hard_sigmoid(x)))),
    **_names("neg.default", reader=elementwise(lambda x: ("negate", x))),
    **_names("add.Tensor", reader=elementwise(scaled("add"), 2)),
    **_names("sub.Tensor", reader=elementwise(scaled("subtract"), 2)),
    **_names("rsub.Scalar", reader=elementwise(lambda a, b, alpha=1: scaled("subtract")(b, a, alpha), 2)),
    **_names("mul.Tensor", reader=elementwise(lambda a, b: ("multiply", a, b), 2)),
    **_names("mul.Scalar", reader=elementwise(lambda a, b: ("multiply", a, b), 2)),
    **_names("div.Tensor", reader=elementwise(lambda a, b: ("divide", a, b), 2)),
    **_names("addcmul.default", reader=elementwise(added_product, 3)),
    **_names("native_batch_norm.default", "_native_batch_norm_legit_no_training.default", reader=batch_norm),
    **_names("native_group_norm.default", reader=group_norm),
    **_names("native_layer_norm.default", reader=layer_norm),
    **_names("_softmax.default", "_safe_softmax.default", reader=softmax),
    **_names("channel_shuffle.default", reader=channel_shuffle),
    **_names("pixel_shuffle.default", reader=pixel_shuffle),
    **_names("pixel_unshuffle.default", reader=pixel_unshuffle),
    **_names("upsample_nearest1d.default", "upsample_nearest2d.default", "upsample_nearest3d.default", reader=nearest),
    **_names("upsample_nearest1d.vec", "upsample_nearest2d.vec", "upsample_nearest3d.vec", reader=nearest),
    **_names(*(f"_upsample_nearest_exact{n}d.{kind}" for n in (1, 2) for kind in ("default", "vec")), reader=nearest),
    **_names("_upsample_bilinear2d_aa.default", "_upsample_bicubic2d_aa.default", reader=resize),
    **_names("_upsample_bilinear2d_aa.vec", "_upsample_bicubic2d_aa.vec", reader=resize),
    **_names("upsample_linear1d.default", "upsample_bilinear2d.default", "upsample_bicubic2d.default", reader=resize),
    **_names("upsample_linear1d.vec", "upsample_bilinear2d.vec", "upsample_bicubic2d.vec", reader=resize),
    **_names("upsample_trilinear3d.default", "upsample_trilinear3d.vec", reader=resize),
    **_names("max_pool2d_with_indices.default", reader=Pooling(2, "max")),
    **_names("max_pool3d_with_indices.default", reader=Pooling(3, "max")),
    **_names("avg_pool2d.default", reader=Pooling(2, "mean")),
    **_names("avg_pool3d.default", reader=Pooling(3, "mean")),
    **_names("_adaptive_avg_pool2d.default", "_adaptive_avg_pool3d.default", reader=adaptive_pool),
    **_names("mean.dim", reader=mean),
    **_names(*VIEWS, reader=alias),
    **_names("clone.default", reader=same_memory),
    **_names("constant_pad_nd.default", reader=padding),
    **_names(*(f"{kind}_pad{n}d.default" for kind in ("reflection", "replication") for n in (1, 2, 3)), reader=padding),
    **_names("slice.Tensor", reader=channel_slice),
    **_names("select.int", reader=channel_select),
    **_names("slice_scatter.default", "select_scatter.default", reader=scatter),
    **_names("split.Tensor", "split_with_sizes.default", reader=channel_split),
    **_names("cat.default", reader=join),
}
"""Reader of each operator. An operator with several results is read where only the first is used."""
