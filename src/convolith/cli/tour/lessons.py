"""Lessons of the tour: functions that are run, and whose source the tour prints.

The docstring of a lesson is its prose, its body the Python code that is shown, and the returned dict its values. Values
whose names begin with an underscore are only for the figures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import convolith as cl
from convolith import d2l
from convolith.report.html_page import Figure
from convolith.report.plots import image_row, loss_curves

Values = dict[str, Any]


def a_photograph(photo: np.ndarray) -> Values:
    """A colour photograph is an array of channels: red, green and blue, each a grid of numbers.

    A convolution layer computes cross-correlations of such stacks: it slides a kernel over the image, multiplies, and
    sums up.
    """
    x = np.moveaxis(photo, -1, 0) / 255  # channels first: (3, height, width), from 0 to 1

    return {"x.shape": x.shape, "x.dtype": x.dtype, "_x": x}


def several_input_channels(photo: np.ndarray) -> Values:
    """With several input channels, the kernel has as many channels, and the results of all channels are added.

    With the numbers of the chapter this gives 56, 72, 104, 120. On the photograph, one kernel detects vertical edges in
    all three colours at once.
    """
    X = np.array([[[0, 1, 2], [3, 4, 5], [6, 7, 8]], [[1, 2, 3], [4, 5, 6], [7, 8, 9]]])
    K = np.array([[[0, 1], [2, 3]], [[1, 2], [3, 4]]])
    Y = d2l.corr2d_multi_in(X, K)

    x = np.moveaxis(photo, -1, 0) / 255
    sobel = np.array([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    edges = cl.correlate(x, np.stack([sobel, sobel, sobel])[None])  # (1, 3, 3, 3): one output channel from three
    one_by_one = sum(d2l.corr2d(channel, sobel) for channel in x)
    difference = np.abs(edges[0] - one_by_one).max()

    return {"Y": Y, "edges.shape": edges.shape, "difference": difference, "_x": x, "_edges": edges[0]}


def several_output_channels(photo: np.ndarray) -> Values:
    """Several output channels are several kernels, stacked: each reads all input channels and computes one output."""
    X = np.array([[[0, 1, 2], [3, 4, 5], [6, 7, 8]], [[1, 2, 3], [4, 5, 6], [7, 8, 9]]])
    K = np.array([[[0, 1], [2, 3]], [[1, 2], [3, 4]]])
    Y = d2l.corr2d_multi_in_out(X, np.stack([K, K + 1, K + 2]))

    x = np.moveaxis(photo, -1, 0) / 255
    sobel = np.array([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    kernels = np.stack([sobel, sobel.T, np.full((3, 3), 1 / 9)])  # vertical edges, horizontal edges, blur
    y = cl.correlate(x, np.stack([kernels] * 3, axis=1) / 3, padding="same")  # (3, 3, 3, 3): three from three

    return {"Y[0]": Y[0], "Y[1]": Y[1], "Y[2]": Y[2], "y.shape": y.shape, "_y": y}


def one_by_one_is_a_matrix_product(photo: np.ndarray) -> Values:
    """A 1x1 kernel reads one pixel at a time: it mixes channels, and is a matrix product over them.

    Sliding the kernel and the matrix product give equal numbers up to the last bits. Both are correct: they add the
    same products in different orders, and every float addition is rounded. Their errors against float64 are similar.
    """
    x = np.moveaxis(photo, -1, 0).astype(np.float32) / 255
    x = np.concatenate([x**power for power in range(1, 17)])  # 48 channels to mix
    K = np.random.default_rng(0).normal(size=(4, 48, 1, 1)).astype(np.float32)

    slid = np.stack([sum(d2l.corr2d(x[c], k[c]) for c in range(48)) for k in K])  # channel after channel
    product = d2l.corr2d_multi_in_out_1x1(x, K)  # K as (4, 48) times x as (48, pixels)
    exact = cl.correlate(x.astype(np.float64), K.astype(np.float64))

    return {
        "slid - product": np.abs(slid - product).max(),
        "error of slid": np.abs(slid - exact).max(),
        "error of product": np.abs(product - exact).max(),
        "engine that correlate chooses": cl.plan(cl.ConvSpec.of(x, K)).engine,
    }


def two_kernels_are_one(photo: np.ndarray) -> Values:
    """Two successive correlations equal one, whose kernel is the full convolution of the two: 4x4 and 3x3 give 6x6.

    Correlating one kernel with the other is wrong: corr2d(K1, K2) is 2x2 and maps a 12x12 image to 11x11, but the two
    kernels map it to 7x7. With padding between the two, borders differ; Convolith reports where the single kernel is
    exact, and recomputes the other outputs.
    """
    grey = photo.mean(axis=2) / 255
    X = grey[100:112, 200:212]  # a 12x12 piece of the photograph
    rng = np.random.default_rng(0)
    K1, K2 = rng.normal(size=(4, 4)), rng.normal(size=(3, 3))

    both = cl.compose(cl.Conv(K1[None, None]), cl.Conv(K2[None, None]))
    in_a_row = d2l.corr2d(d2l.corr2d(X, K1), K2)
    at_once = both(X[None])[0]
    wrong = d2l.corr2d(X, d2l.corr2d(K1, K2))

    padded = cl.compose(cl.Conv(K1[None, None], np.array([0.5]), padding=2), cl.Conv(K2[None, None], padding=1))
    whole = cl.correlate(cl.correlate(grey[None], padded.first), padded.second)

    return {
        "both.conv": both.conv,
        "in a row": in_a_row.shape,
        "at once": at_once.shape,
        "corr2d(K1, K2)": wrong.shape,
        "difference": np.abs(in_a_row - at_once).max(),
        "padded.exact": padded.exact,
        "padded.reason": padded.reason,
        "padded.conv alone, difference": np.abs(cl.correlate(grey[None], padded.conv) - whole).max(),
        "padded(x), difference": np.abs(padded(grey[None]) - whole).max(),
    }


def a_kernel_is_learned(photo: np.ndarray) -> Values:
    """From the images before and after, gradient descent finds the kernel in steps, least squares in closed form.

    On random numbers 1000 steps are enough. In a photograph neighbouring pixels are similar, the problem is badly
    conditioned, and after 1000 steps the kernel is still far from the true one.
    """
    rng = np.random.default_rng(0)
    X = rng.normal(size=(1, 10, 10))
    both = cl.compose(cl.Conv(rng.normal(size=(1, 1, 2, 2))), cl.Conv(rng.normal(size=(1, 1, 3, 3))))
    K = both.conv.weight
    learned = cl.fit(X, both(X), kernel_size=4, method="gd", learning_rate=0.01, steps=1000)
    solved = cl.fit(X, both(X), kernel_size=4)

    piece = photo[None, 100:228, 180:308].mean(axis=3) / 255
    blurred = cl.correlate(piece, K)
    by_steps = cl.fit(piece, blurred, kernel_size=4, method="gd", steps=1000)
    at_once = cl.fit(piece, blurred, kernel_size=4)

    def off(found: cl.Fit) -> float:
        return float(np.linalg.norm(found.kernel - K) / np.linalg.norm(K))

    return {
        "random, first loss": learned.loss[0],
        "random, last loss": learned.loss[-1],
        "random, kernel off by (descent)": off(learned),
        "random, kernel off by (least squares)": off(solved),
        "photo, kernel off by (descent)": off(by_steps),
        "photo, kernel off by (least squares)": off(at_once),
        "photo, condition number": at_once.condition,
        "_curves": {"random numbers": learned.loss, "photograph": by_steps.loss},
        "_floor": {"photograph, least squares": at_once.loss[0]},
    }


def what_it_costs(_photo: np.ndarray) -> Values:
    """A layer's operations and bytes are known before it runs: one product per kernel weight, output pixel and image.

    Doubling the input and output channels takes four times the products, tripling them nine times. The padding has
    no such factor: doubling it only makes the output larger.
    """
    layer = cl.ConvSpec(in_channels=64, out_channels=64, size=(56, 56), kernel_size=3, padding=1)
    counted = cl.cost(layer)
    doubled = counted.scaled(in_channels=2, out_channels=2)
    tripled = counted.scaled(in_channels=3, out_channels=3)
    padded = counted.scaled(padding=2)

    return {
        "forward multiplications": counted.forward.multiplications,
        "forward additions": counted.forward.additions,
        "backward multiplications": counted.backward.multiplications,
        "forward, bytes held": counted.memory.forward.bytes,
        "backward, bytes held": counted.memory.backward.bytes,
        "channels x 2: products x": doubled.factor,
        "channels x 3: products x": tripled.factor,
        "padding x 2: output": padded.after.spec.output_size,
        "padding x 2: products x": padded.factor,
    }


@dataclass(frozen=True)
class Lesson:
    """A heading, the function that is run and printed, and the function that draws its figure (None: no figure)."""

    heading: str
    run: Callable[[np.ndarray], Values]
    draw: Callable[[Values], Figure] | None = None


def draw_channels(values: Values) -> Figure:
    """Draw the photograph and its channels."""
    x = values["_x"]
    panels = {"photograph": np.moveaxis(x, 0, -1), "red": x[0], "green": x[1], "blue": x[2]}
    return Figure(
        image_row(panels), "A portrait in colour and its three channels in grey", "One picture, three channels."
    )


def draw_edges(values: Values) -> Figure:
    """Draw the input and the output of the edge kernel."""
    panels = {"in: 3 channels": np.moveaxis(values["_x"], 0, -1), "out: 1 channel": np.abs(values["_edges"])}
    return Figure(
        image_row(panels),
        "The photograph and its vertical edges",
        "Three input channels, one output channel: its absolute values.",
    )


def draw_outputs(values: Values) -> Figure:
    """Draw three output channels."""
    names = ("vertical edges", "horizontal edges", "blur")
    return Figure(
        image_row(dict(zip(names, values["_y"], strict=True))),
        "Vertical edges, horizontal edges and a blurred version of the photograph",
        "Three output channels: three kernels, each applied to all colours.",
    )


def draw_losses(values: Values) -> Figure:
    """Draw the loss per step."""
    return Figure(
        loss_curves(values["_curves"], values["_floor"]),
        "Loss per step of gradient descent: on random numbers it falls to rounding, on the photograph it levels off",
        "Least squares needs no steps: it ends at the rounding of the arithmetic (dashed).",
    )


LESSONS = (
    Lesson("A photograph is channels", a_photograph, draw_channels),
    Lesson("Several input channels", several_input_channels, draw_edges),
    Lesson("Several output channels", several_output_channels, draw_outputs),
    Lesson("1x1: a matrix product", one_by_one_is_a_matrix_product),
    Lesson("Two kernels are one", two_kernels_are_one),
    Lesson("A kernel is learned", a_kernel_is_learned, draw_losses),
    Lesson("What a layer costs", what_it_costs),
)
