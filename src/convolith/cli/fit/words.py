"""Errors and warnings of a fit in the words of the command."""

from __future__ import annotations

from convolith.cli.words import Words

SENTENCES = (
    (
        r"^mask, weights, x_mask, nan or saturation leave",
        "--mask, --variance, --before-mask, --ignore-nan or --saturation leave",
    ),
    (r"nan='omit' or x_mask=", "--ignore-nan or --before-mask"),
    (r"nan='omit' or mask=", "--ignore-nan or --mask"),
    (r"\bthe first at \(\d+, \d+, (\d+), (\d+)\)", r"the first at row \1, column \2"),
    (r"\bx_mask\b=?", "--before-mask"),
    (r"(?<!-)\bmask\b=?", "--mask"),
    (r"\bnan or saturation\b", "--ignore-nan or --saturation"),
    (r"\bweights=1/variance\b", "--variance"),
    (r"\bsee Fit\.selection\b", "see the table of sizes"),
    (r"\bbut stderr assumes\b", "but the standard errors assume"),
    (r"\bbut stderr takes\b", "but the standard errors take"),
    (r"\boffset=True\b", "--background"),
    (r'\bpass method="(\w+)"', r"pass --method \1"),
    (r'\bwith loss="huber" only', "with --loss huber only"),
    (r"\bconstraints is \('nonnegative',\)", "--nonnegative was given"),
    (r"\bpadding='same' with the padding_mode\b", "--padding same with the --padding-mode"),
    (r"\bpadding as \(before, after\) pairs", "--padding as before:after"),
    (r"\bspatial size \(([^)]*)\) but x\b", r"spatial size (\1) but BEFORE"),
    (r"\bbut x (\d+)\b", r"but BEFORE has \1"),
    (r"; pass one for each image$", "; pass --positions"),
    (r"^position is array\(\[([^\]]*)\]\)", r"--positions has a row of \1"),
    (r"\bpadding ['\"](\w+)['\"]", r"--padding \1"),
    (r"\bnan='omit'", "--ignore-nan"),
    (
        r"\bgive kernel_size as a tuple of one number per axis, such as \((\d+), ",
        r"give one number per axis, such as --size \1,",
    ),
    (r"\bk spans\b", "the kernel spans"),
    (
        r"; channels come first: if x .*",
        "; for samples in rows pass --axes 0 (one kernel), or transpose both arrays (channels come first)",
    ),
    (
        r"; channels come before the spatial axes: .*",
        "; channels come before the spatial axes: move them",
    ),
    (r" but the padded input has\b", " but BEFORE with its padding has"),
    (r"\bdid you swap x and k\?.*", "pass a smaller --size"),
    (r"\ba smaller k$", "a smaller --size"),
    (r", which leave the kernel as it is", ""),
)
"""Sentences of `fit` that the command says otherwise, as regular expressions."""
OPTIONS = {
    "kernel_size": "--size",
    "x_mask": "--before-mask",
    "mask": "--mask",
    "weights": "--variance",
    "variance": "--variance",
    "saturation": "--saturation",
    "origin": "--origin",
    "ridge": "--ridge",
    "smoothness": "--smoothness",
    "basis": "--basis",
    "x_noise_variance": "--x-noise-variance",
    "max_size": "--max-size",
    "size_tolerance": "--size-tolerance",
    "errors": "--errors",
    "method": "--method",
    "loss": "--loss",
    "huber_delta": "--huber-delta",
    "learning_rate": "--learning-rate",
    "steps": "--steps",
    "seed": "--seed",
    "stride": "--stride",
    "padding_mode": "--padding-mode",
    "padding": "--padding",
    "dilation": "--dilation",
    "degree": "--degree",
    "background_degree": "--background-degree",
    "modulation": "--modulation",
    "constant": "--constant",
    "positions": "--positions",
}
"""Options of the command by the names of the arguments of `fit`."""


def _of_option(name: str, option: str) -> Words:
    """Return the rules for an argument: with a value, as a subject, and, where it is no English word, anywhere."""
    start = rf"(?<![-*\w]){name}"
    whole = r"(-?\d+)"
    anywhere = ((rf"{start}\b", option),) if "_" in name else ()
    return (
        (rf"{start}=\({whole},\)", rf"{option} \1"),
        (rf"{start}=\({whole}, {whole}\)", rf"{option} \1,\2"),
        (rf"{start}=\({whole}, {whole}, {whole}\)", rf"{option} \1,\2,\3"),
        (rf"{start} \({whole},\)", rf"{option} \1"),
        (rf"{start}( is)? \({whole}, {whole}\)", rf"{option}\1 \2,\3"),
        (rf"{start} \({whole}, {whole}, {whole}\)", rf"{option} \1,\2,\3"),
        (rf"{start}=['\"]([^'\"]*)['\"]", rf"{option} \1"),
        (rf"{start}=(?=[\d/])", f"{option} "),
        (rf"{start}=", option),
        (rf"^{start}(?= (is|has|was|spans)\b)", option),
        *anywhere,
    )


OPERANDS = (
    (r"(?<![-\w/.])x(?![-\w/.(\[=])", "BEFORE"),
    (r"(?<![-\w/.])y(?![-\w/.(\[=])", "AFTER"),
    (r"\ban? (BEFORE|AFTER)\b", r"\1"),
)
"""Names of the data, wherever they are words."""

WORDS: Words = (
    *SENTENCES,
    *(rule for name, option in OPTIONS.items() for rule in _of_option(name, option)),
    *OPERANDS,
)
"""Words of `fit` in its errors and warnings, as regular expressions, with those of the command."""
