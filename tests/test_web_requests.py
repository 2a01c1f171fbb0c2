"""Requests of the page: files and JSON that are refused, in words and never with a 500; pictures as they are read."""

import inspect
import io
import json
import struct
import time
import zlib
from contextlib import suppress
from dataclasses import fields
from types import NoneType, UnionType
from typing import Annotated, Literal, Union, get_args, get_origin

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from convolith import kernels
from convolith.errors import ConvolithError
from convolith.web import pictures, requests
from convolith.web.kernels import kernel_values
from convolith.web.schema import MAX_DEPTH, RequestError, read_json, types_of
from convolith.web.store import Store, Stored
from tests.web_page import npy, png, sent, served

ADDRESSES = {
    "/api/kernel": requests.ShowKernel,
    "/api/compute": requests.Compute,
    "/api/crossover": requests.Crossover,
    "/api/fit": requests.FitKernel,
    "/api/network": requests.ExamineNetwork,
}
GREY = np.arange(48, dtype=np.uint8).reshape(6, 8)


@pytest.fixture(scope="module")
def page():
    with served() as client:
        yield client


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def header_of_png(columns, rows, bits=8, colours=0):
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", columns, rows, bits, colours, 0, 0, 0))


def npy_with(shape, dtype, data=b"", *, fortran=False, version=b"\x01\x00"):
    shape = shape if isinstance(shape, str) else repr(shape)
    header = f"{{'descr': {dtype!r}, 'fortran_order': {fortran}, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H", len(header)) + header + data


def saved(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def jpeg(image, **options):
    return saved(image, "JPEG", **options)


def claiming(body, rows, columns):
    """Return a JPEG whose header claims other sides."""
    start = body.index(b"\xff\xc0") + 5
    return body[:start] + struct.pack(">HH", rows, columns) + body[start + 4 :]


OBJECTS = io.BytesIO()
np.save(OBJECTS, np.array([[print, None]], object), allow_pickle=True)
BAD_FILES = {
    "nothing": (b"", 415, "no PNG, JPEG or .npy"),
    "a text": (b"hello", 415, "no PNG, JPEG or .npy"),
    "a GIF": (b"GIF89a" + b"\0" * 50, 415, "convert it first"),
    "an .npz": (b"PK\3\4" + b"\0" * 50, 415, "no PNG"),
    "a huge PNG": (header_of_png(60_000, 60_000) + chunk(b"IDAT", zlib.compress(b"\0" * 99)), 413, "3600000000 pixels"),
    "a large PNG": (header_of_png(9000, 9000) + chunk(b"IDAT", zlib.compress(b"\0" * 99)), 413, "9,000 x 9,000"),
    "a PNG between": (header_of_png(10_000, 10_000) + chunk(b"IDAT", zlib.compress(b"\0" * 99)), 413, "pixels"),
    "a long PNG": (header_of_png(1, 100_000) + chunk(b"IDAT", zlib.compress(b"\0" * 99)), 413, "along an axis"),
    "a truncated PNG": (png(np.random.default_rng(0).integers(0, 9, (99, 99)).astype(np.uint8))[:900], 422, "complete"),
    "a PNG without pixels": (header_of_png(4, 4), 422, "read"),
    "half a header": (header_of_png(4, 4)[:20], 422, "read"),
    "a PNG of 16-bit colours": (
        header_of_png(1, 1, 16, 2) + chunk(b"IDAT", zlib.compress(b"\0" * 7)) + chunk(b"IEND", b""), 422, "cut to 8",
    ),
    "a PNG of 16 bits and transparency": (
        header_of_png(1, 1, 16, 4) + chunk(b"IDAT", zlib.compress(b"\0" * 5)) + chunk(b"IEND", b""), 422, "cut to 8",
    ),
    "a PNG whose text swells": (
        header_of_png(4, 4) + chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(5 << 20))), 422, "cannot be read",
    ),
    "a huge JPEG": (claiming(jpeg(Image.new("L", (8, 8))), 60_000, 60_000), 413, "3600000000 pixels"),
    "CMYK": (jpeg(Image.new("CMYK", (4, 4))), 422, "CMYK"),
    "a truncated JPEG": (jpeg(Image.fromarray(np.random.default_rng(0).integers(0, 9, (99, 99)).astype(np.uint8)))[:300], 422, "complete"),
    "objects": (OBJECTS.getvalue(), 422, "dtype object"),
    "a lying shape": (npy_with((1000, 1000), "<f8", b"\0" * 80), 422, "takes 8,000,000 bytes; the file has 80"),
    "a huge shape": (npy_with((10**9, 10**9), "<f8"), 413, "pixels"),
    "a lying shape of columns first": (npy_with((40, 3), ">i4", b"\0" * 80, fortran=True), 422, "takes 480 bytes"),
    "60,000 x 60,000 numbers": (npy_with((60_000, 60_000), "|u1"), 413, "pixels"),
    "a negative shape": (npy_with((-4, 4), "<f8", b"\0" * 128), 422, "negative"),
    "two negative numbers": (npy_with((-4, -4), "<f8", b"\0" * 128), 422, "negative"),
    "a number without end": (npy_with(f"(0x{'f' * 5000}, 1)", "<f8"), 422, "impossible"),
    "a nested header": (npy_with("(" * 3000 + ")" * 3000, "<f8"), 422, "header"),
    "a header of version 3": (npy_with((2, 2), "<f8", b"\0" * 32, version=b"\x03\x00"), 422, "header"),
    "more bytes than the shape": (npy_with((2, 2), "<f8", b"\0" * 40), 422, "the file has 40"),
    "an array of three axes": (npy(np.zeros((4, 4, 9))), 422, "channels"),
    "a number": (npy(np.zeros(())), 422, "shape"),
    "no pixels": (npy(np.zeros((0, 4))), 422, "at least one"),
    "complex numbers": (npy(np.zeros((4, 4), complex)), 422, "complex128"),
    "records": (npy(np.zeros((4, 4), [("a", int)])), 422, "dtype"),
    "texts": (npy(np.full((2, 2), "a")), 422, "dtype"),
    "a broken header": (b"\x93NUMPY\x01\x00\x10\x00{'descr': __import", 422, "header"),
    "another version": (b"\x93NUMPY\x09\x00", 422, "header"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_FILES)
def test_files_that_are_no_pictures_are_refused_in_words(page, name):
    body, status, words = BAD_FILES[name]
    start = time.perf_counter()
    answer = page.put("/api/picture", content=body)
    assert answer.status_code == status, answer.text
    assert words in answer.json()["error"]
    assert time.perf_counter() - start < 30


def test_a_body_over_the_limit_is_refused_with_and_without_its_length(page, monkeypatch):
    monkeypatch.setattr(pictures, "MAX_BYTES", 100_000)
    body = b"\x93NUMPY" + bytes(150_000)
    assert page.put("/api/picture", content=body).status_code == 413

    def parts():
        for _ in range(30):
            yield bytes(5000)

    answer = page.put("/api/picture", content=parts())
    assert answer.status_code == 413
    assert "larger than 100,000 bytes" in answer.json()["error"]
    assert page.get("/api/ping").status_code == 200


def test_a_body_of_json_over_the_limit_is_refused(page):
    answer = page.post("/api/kernel", content=b" " * (5 << 20), headers={"content-type": "application/json"})
    assert answer.status_code == 413


def about(page, body):
    return page.get(f"/api/picture/{sent(page, body)}/about").json()


def values(page, identifier):
    return np.load(io.BytesIO(page.get(f"/api/picture/{identifier}?as=npy").content))


def test_pictures_are_read_as_they_are_meant(page):
    grey16 = np.array([[0, 65535], [300, 7]], np.uint16)
    np.testing.assert_array_equal(values(page, sent(page, png(grey16))), grey16)
    np.testing.assert_array_equal(values(page, sent(page, png(GREY))), GREY)
    palette = Image.fromarray(np.dstack([GREY] * 3)).quantize(48)
    body = saved(palette, "PNG")
    np.testing.assert_array_equal(values(page, sent(page, body)), np.asarray(palette.convert("RGB")))
    assert about(page, body)["notes"] == ["the palette was replaced by its colours"]
    assert len(about(page, saved(palette, "PNG", transparency=3))["notes"]) == 2
    bits = Image.fromarray(GREY > 20)
    np.testing.assert_array_equal(values(page, sent(page, saved(bits, "PNG"))), (GREY > 20) * 255)
    clear = about(page, png(np.zeros((3, 4, 4), np.uint8)))
    assert (clear["shape"], clear["notes"]) == ([3, 4, 3], ["transparency was left out"])
    turned = Image.Exif()
    turned[0x0112] = 6
    upright = about(page, jpeg(Image.fromarray(GREY), exif=turned))
    assert upright["shape"] == [8, 6]
    assert "upright" in upright["notes"][0]
    lying = sent(page, saved(Image.fromarray(GREY), "PNG", exif=turned))
    np.testing.assert_array_equal(values(page, lying), np.rot90(GREY, -1))
    frames = [Image.fromarray(GREY), Image.fromarray(GREY + 1)]
    animated = saved(frames[0], "PNG", save_all=True, append_images=frames[1:])
    assert "only the first picture" in about(page, animated)["notes"][0]
    np.testing.assert_array_equal(values(page, sent(page, animated)), GREY)
    np.testing.assert_array_equal(values(page, sent(page, png(GREY) + b"PK\3\4<script>")), GREY)
    holes = np.array([[1.0, np.nan], [np.inf, 2.0]])
    found = about(page, npy(holes))
    assert (found["not_finite"], found["least"], found["largest"]) == (2, 1.0, 2.0)
    np.testing.assert_array_equal(values(page, sent(page, npy(holes))), holes)
    np.testing.assert_array_equal(values(page, sent(page, npy(np.asfortranarray(GREY).astype(">i4")))), GREY)
    np.testing.assert_array_equal(values(page, sent(page, npy(GREY.astype(">f2")))), GREY)
    assert about(page, npy(GREY[..., None]))["shape"] == [6, 8]
    assert about(page, npy(GREY > 3))["dtype"] == "uint8"


@pytest.mark.parametrize("kind", ["grey", "16 bits", "palette", "JPEG", "numbers"])
def test_damaged_files_are_read_or_refused_in_words(kind):
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (20, 24)).astype(np.uint8))
    body = {
        "grey": lambda: saved(picture, "PNG"),
        "16 bits": lambda: png(rng.integers(0, 65536, (20, 24)).astype(np.uint16)),
        "palette": lambda: saved(picture.convert("P"), "PNG"),
        "JPEG": lambda: jpeg(picture),
        "numbers": lambda: npy(rng.normal(size=(5, 6))),
    }[kind]()
    for _ in range(150):
        damaged = bytearray(body)
        for place in rng.integers(0, len(body) if rng.random() < 0.5 else 120, rng.integers(1, 4)):
            damaged[place] = rng.integers(256)
        start = time.perf_counter()
        with suppress(RequestError):
            end = len(body) if rng.random() < 0.7 else rng.integers(len(body))
            array = pictures.decode(bytes(damaged[:end])).array
            assert array.ndim in (2, 3)
            assert array.nbytes <= pictures.MAX_PIXELS * 8
        assert time.perf_counter() - start < 30, "a few milliseconds on a quiet machine"


def shown(page, identifier, **query):
    answer = page.get(f"/api/picture/{identifier}", params=query)
    assert answer.status_code == 200, answer.text
    return np.asarray(Image.open(io.BytesIO(answer.content))), answer.headers


def test_values_are_shown_within_a_range_and_never_clipped_in_silence(page):
    identifier = sent(page, npy(np.array([[-2.0, 0.0], [1.0, 2.0]])))
    pixels, said = shown(page, identifier)
    np.testing.assert_array_equal(pixels, [[0, 128], [191, 255]])
    assert (said["x-convolith-low"], said["x-convolith-high"], said["x-convolith-clipped"]) == ("-2.0", "2.0", "0")
    pixels, said = shown(page, identifier, low=0, high=1)
    np.testing.assert_array_equal(pixels, [[0, 0], [255, 255]])
    assert said["x-convolith-clipped"] == "2"
    pixels, _ = shown(page, identifier, diverging=1)
    assert pixels.shape == (2, 2, 3)
    assert pixels[0, 1].tolist() == [247, 247, 247]
    assert pixels[0, 0, 2] > pixels[0, 0, 0]
    assert pixels[1, 1, 0] > pixels[1, 1, 2]
    for low, high in ((1e300, -1e300), (3, 3), (0, 1e-300)):
        shown(page, identifier, low=low, high=high)
        shown(page, sent(page, png(GREY)), low=low, high=high, diverging=1)
    for array in (
        np.full((2, 2), np.nan),
        np.full((2, 2), 5.0),
        np.array([[1e308, -1e308]]),
        np.zeros((2, 2, 2)),
        np.zeros((2, 2, 4)),
    ):
        for diverging in (0, 1):
            shown(page, sent(page, npy(array)), diverging=diverging)


@pytest.mark.parametrize("query", ["as=pickle", "low=nan", "low=1e999", "high=x", "diverging=2", "extra=1"])
def test_options_of_a_picture_are_checked(page, query):
    answer = page.get(f"/api/picture/rings?{query}")
    assert answer.status_code == 422
    assert answer.json()["error"]


def test_bundled_pictures_are_there_without_uploads(page):
    offered = page.get("/api/about").json()
    assert {"rings", "squares", "noise", "camera"} <= set(offered["pictures"])
    for name in offered["pictures"]:
        assert page.get(f"/api/picture/{name}/about").json()["dtype"] == "uint8"
    assert page.get("/api/picture/unknown").status_code == 404
    assert page.get("/api/picture/r-unknown").status_code == 404


def test_the_store_drops_the_least_recently_used():
    store = Store("picture", 250)
    names = [store.put(Stored(np.zeros(100, np.uint8))) for _ in range(2)]
    store.get(names[0])
    names.append(store.put(Stored(np.zeros(100, np.uint8))))
    assert [store.find(name) is not None for name in names] == [True, False, True]
    with pytest.raises(RequestError, match="send it again"):
        store.get(names[1])
    big = store.put(Stored(np.zeros(1000, np.uint8)))
    assert (len(store), store.bytes) == (1, 1000)
    assert store.find(big)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not JSON"), ("{", "not JSON"), ("[1,]", "not JSON"), ("{} {}", "not JSON"), ("'a'", "not JSON"),
        ('{"a": 1, "a": 2}', "'a' is given twice"), ('{"a": NaN}', "NaN is not a number"), ("[-Infinity]", "-Infinity"),
        ("1e999", "too large"), ("[" * 100_000, "nested 100000 deep"), ('{"a":' * 50 + "1" + "}" * 50, f"at most {MAX_DEPTH}"),
        ("9" * 5000, "5000 digits"), ("1." + "1" * 5000, "too large"), ("\ufeff{}", "not JSON"),
    ],
)  # fmt: skip
def test_json_is_read_strictly(page, text, words):
    with pytest.raises(RequestError, match="^") as caught:
        read_json(text.encode())
    assert caught.value.status == 400
    assert words in str(caught.value)
    answer = page.post("/api/kernel", content=text.encode(), headers={"content-type": "application/json"})
    assert (answer.status_code, words in answer.json()["error"]) == (400, True)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ("{" + ",".join(f'"{n}": 1' for n in range(190_000)) + ',"189999": 2}', 400, "'189999' is given twice"),
        ('{"kernel": {"values": [[' + "1," * 190_000 + "1]]}}", 422, "of 1 to 255 entries"),
        ('{"kernel": {"values": [' + "[1]," * 60_000 + "[1]]}}", 422, "of 1 to 255 entries"),
        ("[" + "0," * 190_000 + "0]", 422, "expected an object with kernel"),
        ("[" + "0," * 2_000_000 + "0]", 413, "2,000,002 commas and brackets; expected at most 200,000"),
        ("]" * 4_000_000, 413, "brackets"),
        ('{"kernel": {"preset": "' + "x" * 4_000_000 + '"}}', 422, "expected one of airy"),
        ('{"kernel": {"preset": "box", "arguments": {"\\ud800": 1}}}', 422, "ud800"),
        ('{"kernel": {"preset": "box", "arguments": {"\\ud800": "1"}}}', 422, "ud800"),
        ('{"\\ud800": 1}', 422, "ud800"),
    ],
    ids=[
        "doubled",
        "long row",
        "many rows",
        "long list",
        "longer list",
        "brackets",
        "long text",
        "half a letter",
        "half a name",
        "half a field",
    ],
)
def test_large_and_odd_json_has_an_answer_within_a_second(page, body, status, words):
    start = time.perf_counter()
    answer = page.post("/api/kernel", content=body.encode(), headers={"content-type": "application/json"})
    assert answer.status_code == status, answer.text
    assert words in answer.json()["error"]
    assert len(answer.text) < 1000
    assert time.perf_counter() - start < 30, "a second on a quiet machine"


def test_json_is_utf8_and_says_that_it_is_json(page):
    json_type = {"content-type": "application/json"}
    assert "UTF-8" in page.post("/api/kernel", content=b'"\xff"', headers=json_type).json()["error"]
    body = b'{"kernel": {"preset": "box"}}'
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        assert page.post("/api/kernel", content=body, headers={"content-type": kind}).status_code == 415
    assert page.post(
        "/api/kernel", content=body, headers={"content-type": "Application/JSON; charset=utf-8"}
    ).is_success


SQUARE = {"values": [[1, 2], [3, 4]]}
BAD_REQUESTS = [
    ("/api/kernel", [], "the request is []; expected an object with kernel"),
    ("/api/kernel", {}, "the request has no field kernel"),
    ("/api/kernel", {"kernel": SQUARE, "more": 1}, "unknown field 'more'"),
    ("/api/kernel", {"kernel": {}}, "expected one of preset, values, picture"),
    ("/api/kernel", {"kernel": SQUARE | {"preset": "box"}}, "preset, values"),
    ("/api/kernel", {"kernel": {"values": [[1, 2], [3]]}}, "rows of different lengths"),
    ("/api/kernel", {"kernel": {"values": []}}, "of 1 to 255 entries"),
    ("/api/kernel", {"kernel": {"values": [[1, "2"]]}}, "kernel.values[0][1] is '2'; expected a number"),
    ("/api/kernel", {"kernel": {"values": [[True]]}}, "expected a number"),
    ("/api/kernel", {"kernel": {"values": [[10**40]]}}, "expected a number from"),
    ("/api/kernel", {"kernel": {"values": [[1] * 256]}}, "entries"),
    ("/api/kernel", {"kernel": {"preset": "os.system"}}, "expected one of airy, box"),
    ("/api/kernel", {"kernel": {"preset": "__class__"}}, "expected one of airy, box"),
    ("/api/kernel", {"kernel": {"preset": "box", "arguments": {"sigma": 1}}}, "some of size for box"),
    ("/api/kernel", {"kernel": {"preset": "box", "arguments": {"size": 1.5}}}, "a whole number from 1 to 255"),
    ("/api/kernel", {"kernel": {"preset": "gaussian", "arguments": {"sigma": 1e9}}}, "from 0.05 to 31"),
    ("/api/kernel", {"kernel": {"values": [[1]], "arguments": {"sigma": 1}}}, "without kernel.preset"),
    ("/api/kernel", {"kernel": {"picture": "nothing"}}, "there is no picture 'nothing'"),
    ("/api/kernel", {"kernel": {"picture": "camera"}}, "at most 255"),
    ("/api/compute", {"picture": "p-gone", "kernel": SQUARE}, "send it again"),
    ("/api/compute", {"picture": "rings", "kernel": SQUARE, "stride": 0}, "stride is 0"),
    ("/api/compute", {"picture": "rings", "kernel": SQUARE, "stride": [1, 2, 3]}, "stride"),
    ("/api/compute", {"picture": "rings", "kernel": SQUARE, "padding": "SAME"}, "one of same, valid, full"),
    ("/api/compute", {"picture": "rings", "kernel": SQUARE, "dtype": "object"}, "one of float32"),
    ("/api/compute", {"picture": "rings", "kernel": SQUARE, "flip": 1}, "true or false"),
    ("/api/crossover", {"size": [9000, 9]}, "from 1 to 8192"),
    ("/api/crossover", {"kernel_sizes": []}, "of 1 to 64 entries"),
    ("/api/fit", {"before": "rings", "after": "rings", "kernel_size": 33}, "kernel_size is 33"),
    ("/api/fit", {"before": "rings", "after": "rings", "learning_rate": 1}, "it applies to a descent"),
    ("/api/fit", {"before": "rings", "after": "rings", "method": "gd", "ridge": "auto"}, "these need lstsq"),
    ("/api/network", {"inputs": [[1, 3, 8, 8]]}, "no model was named"),
    ("/api/network", {"inputs": [[1000, 1000, 1000]]}, "elements; expected at most"),
    ("/api/network", {"inputs": [[1]], "optimizer": None, "memory": 1}, "name one"),
    ("/api/network", {"inputs": [[1]], "factory": "os:system"}, "unknown field 'factory'"),
]


@pytest.mark.parametrize(("path", "request_", "words"), BAD_REQUESTS)
def test_requests_that_are_wrong_are_refused_in_words(page, path, request_, words):
    answer = page.post(path, json=request_)
    assert answer.status_code in (404, 422), answer.text
    assert words in answer.json()["error"]


@pytest.mark.slow
def test_presets_are_the_kernels_of_the_library(page):
    assert set(requests.PRESETS) == set(kernels.__all__)
    for name, arguments in requests.PRESETS.items():
        defaults = {parameter.name for parameter in inspect.signature(getattr(kernels, name)).parameters.values()}
        assert set(arguments) == defaults
        for argument, bounds in arguments.items():
            for value in set(bounds) - {None}:
                choice = requests.KernelChoice(preset=name, arguments={argument: value})
                with suppress(ConvolithError):  # such as a Gaussian of two pixels, or one that is too large
                    assert max(kernel_values(choice, None).shape) <= requests.MAX_KERNEL
        found = page.post("/api/kernel", json={"kernel": {"preset": name}}).json()
        choice = requests.KernelChoice(preset=name)
        np.testing.assert_allclose(found["values"], getattr(kernels, name)(**choice.keywords()))


def test_a_kernel_says_its_sum_and_rank(page):
    found = page.post("/api/kernel", json={"kernel": SQUARE}).json()
    assert found == {"shape": [2, 2], "values": [[1.0, 2.0], [3.0, 4.0]], "sum": 10.0, "rank": 2}
    assert page.post("/api/kernel", json={"kernel": {"values": [[0, 0]]}}).json()["rank"] == 0
    drawn = sent(page, npy(np.eye(3)))
    assert page.post("/api/kernel", json={"kernel": {"picture": drawn}}).json()["rank"] == 3


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(-2, 40), st.floats(),
    st.text(st.characters(exclude_categories=()), max_size=20),  # halves of surrogate pairs too
    st.sampled_from(["rings", "box", "same", "auto", "gd", "p-x", "\0", "../x"]),
)  # fmt: skip
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def good(kind):
    """Return a strategy of JSON values that a type takes."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated and parts[0] in (int, float):
        limits = (max(parts[1].least, -(2**53)), min(parts[1].most, 2**53))
        return st.integers(*map(int, limits)) if parts[0] is int else st.floats(*map(float, limits))
    if origin is Annotated:
        inner, bounds = parts
        if inner is str:
            return st.sampled_from(["rings", "squares", "p-x"])
        return st.lists(good(get_args(inner)[0]), min_size=int(bounds.least), max_size=min(int(bounds.most), 4))
    if origin in (Union, UnionType):
        return st.one_of(*map(good, parts))
    if origin is Literal:
        return st.sampled_from(parts)
    if origin is dict:
        return st.dictionaries(st.sampled_from(["sigma", "size", "radius", "x"]), st.floats(-5, 5), max_size=2)
    if kind is NoneType:
        return st.none()
    simple = {bool: st.booleans(), str: st.sampled_from([*requests.PRESETS, "x"]), float: st.floats(-5, 5)}
    return simple[kind] if kind in simple else record(kind)


def record(kind):
    """Return a strategy of objects for a dataclass: usually good, sometimes with fields missing, wrong or unknown."""
    types = types_of(kind)
    right = st.fixed_dictionaries({}, optional={field.name: good(types[field.name]) for field in fields(kind)})
    return st.one_of(
        right,
        st.builds(lambda a, b: a | b, right, st.dictionaries(st.sampled_from([*types, "other"]), ANYTHING, max_size=2)),
    )


@pytest.mark.slow(quick=2)
@pytest.mark.parametrize("path", ADDRESSES)
def test_any_request_has_an_answer_within_a_second(page, path):
    """Answers are 2xx, or 4xx with a reason; jobs that begin are cancelled."""
    page.post("/api/kernel", json={"kernel": {"preset": "box"}})  # imports torch

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(request=st.one_of(record(ADDRESSES[path]), ANYTHING))
    def check(request):
        body = json.dumps(request).encode()  # with NaN and infinity, as Python writes them
        start = time.perf_counter()
        with page.stream("POST", path, content=body, headers={"content-type": "application/json"}) as answer:
            first = next(answer.iter_lines())
            assert answer.status_code in (200, 400, 404, 413, 422, 429), first
            if answer.status_code != 200:
                assert json.loads(first)["error"]
        assert time.perf_counter() - start < 30, "generous: the machine that runs the tests may be busy"

    check()
