"""The table of operators, with the rule that counts each.

Rules apply to operators as torch dispatches them, after composite operators are decomposed: a functional call, an
einsum and a module that decompose into equal operators have equal counts.
"""

from __future__ import annotations

from typing import Any

import torch

from convolith.costing.rules import elementwise, norms, pooling, resampling
from convolith.costing.rules import products as p
from convolith.costing.rules import quantised as q
from convolith.costing.rules import reductions as r
from convolith.costing.rules.elementwise import Rule, each, nothing
from convolith.torch_private import has_tensors, operator_name


def _of_axes(names: str) -> str:
    """Return the names of operators of one, two and three axes; the number of axes replaces #."""
    return " ".join(names.replace("#", str(axes)) for axes in (1, 2, 3))


TABLE: tuple[tuple[Rule, str], ...] = (
    (p.convolution, "convolution _convolution convolution_overrideable"),
    (p.convolution_backward, "convolution_backward convolution_backward_overrideable"),
    (p.correlation, "convolith::correlate"),
    (p.correlation_backward, "convolith::correlate_backward"),
    (p.product, "mm bmm mv dot vdot _int_mm"),
    (p.product_added, "addmm baddbmm addmv addr"),
    (p.product_summed, "addbmm"),
    (p.grouped_product, "_grouped_mm"),
    (p.trilinear, "_trilinear"),
    (
        p.attention,
        "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention "
        "_scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention",
    ),
    (
        p.attention_backward,
        "_scaled_dot_product_flash_attention_for_cpu_backward _scaled_dot_product_flash_attention_backward "
        "_scaled_dot_product_efficient_attention_backward",
    ),
    (p.lstm, "mkldnn_rnn_layer"),
    (p.lstm_backward, "mkldnn_rnn_layer_backward"),
    (elementwise.softmax, "_softmax _safe_softmax"),
    (elementwise.log_softmax, "_log_softmax"),
    (elementwise.softmax_backward, "_softmax_backward_data _log_softmax_backward_data"),
    (
        norms.batch_norm,
        "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_functional cudnn_batch_norm",
    ),
    (norms.batch_norm_known, "_native_batch_norm_legit_no_training _batch_norm_no_update"),
    (norms.batch_norm_trained, "_batch_norm_with_update _batch_norm_with_update_functional"),
    (norms.batch_norm_backward, "native_batch_norm_backward"),
    (norms.layer_norm, "native_layer_norm"),
    (norms.layer_norm_backward, "native_layer_norm_backward"),
    (norms.group_norm, "native_group_norm"),
    (norms.group_norm_backward, "native_group_norm_backward"),
    (norms.rms_norm, "_fused_rms_norm"),
    (pooling.max_pool(2), "max_pool2d_with_indices"),
    (pooling.max_pool(3), "max_pool3d_with_indices"),
    (pooling.average_pool(2), "avg_pool2d"),
    (pooling.average_pool(3), "avg_pool3d"),
    (pooling.average_pool_backward(2), "avg_pool2d_backward"),
    (pooling.average_pool_backward(3), "avg_pool3d_backward"),
    (
        pooling.adaptive_average_pool,
        "_adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_avg_pool2d adaptive_avg_pool3d",
    ),
    (pooling.adaptive_average_pool_backward, "_adaptive_avg_pool2d_backward _adaptive_avg_pool3d_backward"),
    (pooling.adaptive_max_pool, "adaptive_max_pool2d adaptive_max_pool3d"),
    (
        elementwise.gradient_of_rows,
        "max_pool2d_with_indices_backward max_pool3d_with_indices_backward adaptive_max_pool2d_backward "
        "adaptive_max_pool3d_backward embedding_dense_backward upsample_nearest1d_backward "
        "upsample_nearest2d_backward upsample_nearest3d_backward _upsample_nearest_exact2d_backward "
        "reflection_pad2d_backward replication_pad2d_backward reflection_pad1d_backward "
        "replication_pad1d_backward unfold_backward im2col_backward col2im",
    ),
    (resampling.interpolation(2), "upsample_linear1d"),
    (resampling.interpolation(4), "upsample_bilinear2d"),
    (resampling.interpolation(8), "upsample_trilinear3d"),
    (resampling.interpolation(16), "upsample_bicubic2d"),
    (resampling.interpolation_backward(2), "upsample_linear1d_backward"),
    (resampling.interpolation_backward(4), "upsample_bilinear2d_backward"),
    (resampling.interpolation_backward(8), "upsample_trilinear3d_backward"),
    (resampling.interpolation_backward(16), "upsample_bicubic2d_backward"),
    (resampling.sampled, "grid_sampler_2d"),
    (elementwise.added, "add sub rsub"),
    (each(multiplications=1), "mul square"),
    (
        each(others=1),
        "div reciprocal sqrt rsqrt exp exp2 expm1 log log2 log10 log1p sin cos tan asin acos atan sinh cosh "
        "tanh erf erfc erfinv floor ceil round trunc fmod remainder atan2 lgamma digamma relu abs sign sgn "
        "maximum minimum fmax fmin eq ne lt le gt ge where isnan isinf isfinite logical_and logical_or "
        "logical_not logical_xor bitwise_and bitwise_or bitwise_not bitwise_xor clamp_min clamp_max threshold "
        "masked_fill floor_divide bernoulli triu tril",
    ),
    (each(others=2), "clamp hardtanh relu6"),
    (each(additions=1), "neg"),
    (each(1, 1), "addcmul lerp"),
    (each(1, 1, 1), "addcdiv"),
    (each(2, 0, 2), "polar"),
    (elementwise.power, "pow"),
    (each(1, 0, 1), "leaky_relu _prelu_kernel threshold_backward hardtanh_backward"),
    (each(0, 1, 2), "sigmoid"),
    (each(1, 1, 2), "silu hardsigmoid glu"),
    (each(2, 1, 2), "hardswish"),
    (each(3, 1, 1), "gelu"),
    (each(1, 1, 2), "elu"),
    (each(1, 1, 3), "mish"),
    (each(2, 1, 3), "softplus"),
    (each(0, 1, 3), "log_sigmoid_forward"),
    (each(2, 1), "sigmoid_backward tanh_backward"),
    (each(3, 3, 2), "silu_backward"),
    (each(2, 1, 1), "glu_backward"),
    (each(1, 0, 2), "hardsigmoid_backward"),
    (each(2, 1, 2), "hardswish_backward"),
    (each(5, 2, 2), "gelu_backward"),
    (each(2, 1, 2), "elu_backward"),
    (each(5, 3, 4), "mish_backward"),
    (each(2, 1, 2), "softplus_backward"),
    (each(1, 0, 1), "leaky_relu_backward"),
    (each(2, 0, 2), "_prelu_kernel_backward"),
    (each(2, 1, 2), "log_sigmoid_backward"),
    (each(2, 0, 2), "native_dropout"),
    (each(2), "native_dropout_backward"),
    (r.summed(), "sum trace nansum"),
    (r.summed(last=1), "mean nanmean"),
    (r.summed(multiplications=1, additions=0), "prod"),
    (r.summed(additions=0, others=1), "max min amax amin argmax argmin any all"),
    (r.summed(additions=0, others=2), "aminmax"),
    (r.summed(others=1, last=1), "logsumexp"),
    (r.running(additions=1), "cumsum"),
    (r.running(multiplications=1), "cumprod"),
    (r.running(additions=1, others=2), "logcumsumexp"),
    (r.running(others=1), "cummax cummin"),
    (r.sorted_rows, "sort argsort msort mode"),
    (r.middle, "median nanmedian"),
    (r.largest_of_rows, "topk kthvalue"),
    (r.variance, "var std var_mean std_mean"),
    (r.norm, "linalg_vector_norm norm"),
    (r.loss(1, 1), "mse_loss"),
    (r.loss(2, 2, 1), "smooth_l1_loss huber_loss"),
    (r.loss(2, 3, 2, reduction=3), "binary_cross_entropy"),
    (r.loss(1, 3, 4, reduction=4), "binary_cross_entropy_with_logits"),
    (r.weight_norm, "_weight_norm_interface"),
    (r.weight_norm_backward, "_weight_norm_interface_backward"),
    (each(2, 1), "mse_loss_backward smooth_l1_loss_backward huber_loss_backward"),
    (elementwise.negative_likelihood(-1), "nll_loss_forward"),
    (elementwise.negative_likelihood(1), "nll_loss2d_forward"),
    (each(3, 2, 1), "binary_cross_entropy_backward"),
    (r.added_into, "index_add scatter_add"),
    (r.scattered, "scatter scatter_reduce"),
    (each(additions=1), "bincount histc"),
    (elementwise.put, "index_put _unsafe_index_put _index_put_impl"),
    (elementwise.transform, "_fft_r2c _fft_c2c _fft_c2r"),
    (q.rescaled, "quantize_per_tensor quantize_per_tensor_dynamic quantize_per_channel"),
    (each(1, 1), "dequantize"),
    (q.convolution(), _of_axes("quantized::conv#d quantized::conv_transpose#d")),
    (q.convolution(rectified=True), _of_axes("quantized::conv#d_relu")),
    (q.convolution(dynamic=True), _of_axes("quantized::conv#d_dynamic quantized::conv_transpose#d_dynamic")),
    (q.linear(), "quantized::linear"),
    (q.linear(rectified=True), "quantized::linear_relu"),
    (q.linear(dynamic=True), "quantized::linear_dynamic"),
    (q.linear(rectified=True, dynamic=True), "quantized::linear_relu_dynamic"),
    (each(3, 4, 2), "quantized::add"),
    (each(3, 4, 3), "quantized::add_relu"),
    (each(4, 3, 2), "quantized::mul"),
    (each(2, 2, 2), "quantized::cat"),
    (each(others=1), "quantized::sigmoid quantized::hardswish quantized::relu6 quantized::clamp quantized::leaky_relu"),
    (pooling.max_pool(2), "quantized::max_pool2d"),
    (
        nothing,
        "clone copy _to_copy to cat stack constant_pad_nd index index_select gather embedding fill zero empty "
        "empty_like empty_strided new_empty new_zeros new_ones new_full new_empty_strided zeros ones "
        "zeros_like ones_like full full_like arange linspace scalar_tensor eye rand rand_like randn "
        "randn_like randint randperm uniform normal lift_fresh lift_fresh_copy repeat flip roll "
        "index_copy masked_scatter masked_select nonzero select_backward slice_backward upsample_nearest1d "
        "expand_copy upsample_nearest2d upsample_nearest3d _upsample_nearest_exact2d reflection_pad1d "
        "reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d "
        "pixel_shuffle pixel_unshuffle nll_loss_backward nll_loss2d_backward im2col channel_shuffle "
        "slice_scatter select_scatter complex _local_scalar_dense item detach _unsafe_view resize set_ "
        "record_stream sym_size sym_numel sym_stride diagonal_backward diag_embed tril_indices triu_indices "
        "bucketize searchsorted one_hot view_as_real _reshape_alias _efficientzerotensor _assert_async "
        "_has_compatible_shallow_copy_type unfold exponential geometric cauchy log_normal multinomial unsafe_split "
        "unsafe_split_with_sizes split_with_sizes_copy is_same_size _linalg_check_errors take index_fill "
        "native_channel_shuffle repeat_interleave rot90 max_unpool2d max_unpool3d "
        "_nested_tensor_from_mask_left_aligned",
    ),
)
"""Rules, each with the operators that it counts. A pointwise operator without a row counts one other operation for
every element, a view none; any other operator without a row makes the totals lower bounds."""
RULES: dict[str, Rule] = {name: rule for rule, names in TABLE for name in names.split()}


def count_of(name: str) -> Rule | None:
    """Return the rule for an operator's name (`add`, or with another namespace, `quantized::conv2d`), or None.

    An in-place operator has the rule of its out-of-place form.
    """
    out_of_place = name.removesuffix("_") if not name.endswith("__") else name
    return RULES.get(name) or RULES.get(out_of_place)


def rule_of(operator: Any) -> Rule | None:
    """Return the rule of a dispatched operator, or None if there is none."""
    name = operator_name(operator).removeprefix("aten::")
    rule = count_of(name)
    if rule is not None:
        return rule
    if operator.is_view or torch.Tag.inplace_view in operator.tags or not has_tensors(operator):
        return nothing  # operators without tensors mark regions for a profiler or check sizes
    if torch.Tag.pointwise in operator.tags:
        return each(others=1)
    return None
