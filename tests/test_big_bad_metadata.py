"""Attributes, locks, journals and names of files that are not in their form: left out with a warning, or refused."""

import base64
import json
import os
import struct

import numpy as np
import pytest

import convolith as cl
from convolith import big
from convolith.big.stores.sources import open_source
from tests.test_big_bad_input import K, X, stored

zarr = pytest.importorskip("zarr")


@pytest.mark.parametrize(
    ("attributes", "lost"),
    [
        ({"fits_header": 7}, "fits_header"),
        ({"multiscales": 1}, "multiscales"),
        ({"ome": {"multiscales": [{"datasets": []}]}}, "multiscales"),
        ({"ModelPixelScaleTag": "x", "ModelTiepointTag": 3}, "ModelPixelScaleTag, ModelTiepointTag"),
        ({"ModelTransformationTag": [1, 2]}, "ModelTransformationTag"),
        ({"XResolution": "a"}, "XResolution"),
    ],
)
@pytest.mark.parametrize("target", ["y.zarr", "y.tif"])
def test_places_that_are_not_in_their_form_are_left_out(attributes, lost, target, tmp_path):
    if target == "y.tif":
        pytest.importorskip("tifffile")
    if "fits_header" in attributes:
        pytest.importorskip("astropy")
    stored(tmp_path / "x.zarr").attrs.update(attributes | {"kept": 5})
    with pytest.warns(RuntimeWarning, match=f"the result has no {lost}: those of .*x.zarr are not in their form"):
        plan = big.plan(tmp_path / "x.zarr", K, tmp_path / target)
    plan.run(progress=False)
    y = open_source(tmp_path / target)
    np.testing.assert_allclose(y.array[tuple(slice(0, n) for n in y.shape)], cl.filter_image(X, K), atol=1e-5)
    if target == "y.zarr":
        assert y.attributes["kept"] == 5
        assert not set(lost.split(", ")) & set(y.attributes)


@pytest.mark.parametrize("value", [-9999.0, float("nan")])
def test_the_fill_value_that_xarray_writes_is_read(value, tmp_path):
    text = base64.b64encode(struct.pack("<d", value)).decode()
    stored(tmp_path / "x.zarr").attrs["_FillValue"] = text
    np.testing.assert_equal(open_source(tmp_path / "x.zarr").nodata, value)


@pytest.mark.parametrize("value", ["none", [1], {"a": 1}, "AAAA"])
def test_a_fill_value_that_is_no_number_is_refused(value, tmp_path):
    stored(tmp_path / "x.zarr").attrs["_FillValue"] = value
    with pytest.raises(
        cl.ConvolithError, match="x.zarr', which cannot be read: .*, which is said to stand for missing"
    ):
        open_source(tmp_path / "x.zarr")


@pytest.mark.parametrize("names", [5, ["y"], ["y", "x", "c"], "yx!"])
def test_names_of_axes_that_are_not_one_each_are_left_out(names, tmp_path):
    stored(tmp_path / "x.zarr", zarr_format=2).attrs["_ARRAY_DIMENSIONS"] = names
    big.plan(tmp_path / "x.zarr", K, tmp_path / "y.zarr").run(progress=False)
    assert open_source(tmp_path / "y.zarr").axes is None


@pytest.mark.parametrize(
    "scales",
    [
        3,
        [{}],
        [{"datasets": []}],
        [{"datasets": ["0"]}],
        [{"datasets": [{"path": "9"}]}],
        [{"datasets": [{"path": "../x.zarr"}]}],
        [{"axes": None, "datasets": [{"path": "0"}]}],
        [{"axes": ["y"], "datasets": [{"path": "0"}]}],
    ],
)
def test_scales_that_are_not_in_their_form_are_refused(scales, tmp_path):
    group = zarr.open_group(str(tmp_path / "p.zarr"), mode="w")
    group.create_array("0", shape=(8, 9), dtype="f4")
    group.attrs["multiscales"] = scales
    words = "multiscales that are not in the form of OME-Zarr .*; name one of its arrays: 0"
    with pytest.raises(cl.ConvolithError, match=words):
        open_source(tmp_path / "p.zarr")
    assert open_source(tmp_path / "p.zarr" / "0").shape == (8, 9)


@pytest.mark.parametrize("text", ["", "12 host", "99999999", "[]", "null", json.dumps({"pid": "1", "host": "here"})])
def test_a_lock_that_says_nothing_is_respected(text, tmp_path):
    stored(tmp_path / "x.zarr")
    lock = tmp_path / "y.zarr.lock"
    lock.write_text(text)
    with pytest.raises(
        cl.ConvolithError, match="y.zarr.lock (says that process 1 on here|is there, .* remove it if none)"
    ):
        big.plan(tmp_path / "x.zarr", K, tmp_path / "y.zarr").run(progress=False)
    assert lock.read_text() == text
    assert not (tmp_path / "y.zarr").exists()


@pytest.mark.parametrize("text", ["", "garbage", "[]\n", "3\n{}\n", "\0"])
def test_a_journal_that_is_none_is_refused(text, tmp_path):
    stored(tmp_path / "x.zarr")
    plan = big.plan(tmp_path / "x.zarr", K, tmp_path / "y.zarr")
    plan.target.journal.write_text(text)
    with pytest.raises(cl.ConvolithError, match="is of another run: .*; start anew"):
        plan.run(progress=False)
    plan.run(progress=False, resume=False)


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_a_target_that_is_a_link_stays_one(tmp_path):
    stored(tmp_path / "x.zarr")
    (tmp_path / "disk").mkdir()
    for name in ("old.zarr", "new.zarr"):
        (tmp_path / "link.zarr").unlink(missing_ok=True)
        (tmp_path / "link.zarr").symlink_to(tmp_path / "disk" / name)
        if name == "old.zarr":
            stored(tmp_path / "disk" / name, 0 * X)
        big.plan(tmp_path / "x.zarr", K, tmp_path / "link.zarr").run(progress=False)
        assert (tmp_path / "link.zarr").is_symlink()
        np.testing.assert_allclose(
            zarr.open_array(str(tmp_path / "disk" / name))[...], cl.filter_image(X, K), atol=1e-5
        )
    (tmp_path / "lost.zarr").symlink_to(tmp_path / "none" / "y.zarr")
    with pytest.raises(cl.ConvolithError, match="there is no folder .*none; create it"):
        big.plan(tmp_path / "x.zarr", K, tmp_path / "lost.zarr")
    with pytest.raises(cl.ConvolithError, match="which cannot be written"):
        big.plan(tmp_path / "x.zarr", K, tmp_path / ("b" * 250 + ".zarr"))
    with pytest.raises(cl.ConvolithError, match="expected no more axes of the kernel than of the source"):
        big.plan(X[0], K)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.npy", b"", "it begins with b'', not as a file of numpy.save does"),
        ("x.npy", b"junk" * 9, "it begins with b'junkju', not as a file of numpy.save does"),
        ("x.npy", b"\x93NUMPY\x01\x00", "cannot be read: "),
        ("x.npz", b"PK\x05\x06" + 18 * b"\0", "which holds no array"),
        ("x.npz", b"PK\x03\x04", "cannot be read: "),
    ],
)
def test_files_that_are_damaged(name, content, words, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(cl.ConvolithError, match=words):
        open_source(tmp_path / name)


def test_a_name_of_an_array_may_have_any_letters(tmp_path):
    np.savez(tmp_path / "é ü.npz", **{"ä b:c": X, "d": 0 * X})
    np.testing.assert_array_equal(open_source(f"{tmp_path / 'é ü.npz'}:ä b:c").array, X)


def test_unsigned_numbers_of_a_fits_file_below_a_primary_unit(tmp_path):
    fits = pytest.importorskip("astropy.io.fits")
    unsigned = (abs(X) * 9).astype(np.uint16)
    fits.HDUList([fits.PrimaryHDU(unsigned), fits.ImageHDU(unsigned + 1)]).writeto(tmp_path / "u.fits")
    for part, added in (("", 0), (":1", 1)):
        np.testing.assert_array_equal(
            open_source(f"{tmp_path / 'u.fits'}{part}").array[3:9, 2:5], unsigned[3:9, 2:5] + added
        )
