"""Places of large results: GeoTIFF, OME and FITS coordinates follow the pixels, as the programs that read them see it."""

import numpy as np
import pytest

import convolith as cl
from convolith import big
from convolith.big.stores.metadata import geography, grids_of, moved, moved_header, pixel_sizes
from convolith.big.stores.sources import Source, open_source
from convolith.big.windows import geometry_of
from convolith.geometry import Grid, grids

zarr, tifffile = pytest.importorskip("zarr"), pytest.importorskip("tifffile")
X = np.random.default_rng(0).integers(0, 100, (60, 70)).astype(np.float32)
KERNEL = np.ones((3, 5))
WAYS = [
    {},
    {"padding": 0},
    {"stride": 2, "padding": 1},
    {"stride": (3, 2), "padding": "valid", "dilation": (2, 1)},
]
"""Geometries of a correlation."""


def starts_and_steps(options):
    """Return where the pixels of a result lie, in rows and columns, from the definition."""
    padding = options.get("padding", "same")
    stride, dilation = (np.broadcast_to(options.get(name, 1), 2) for name in ("stride", "dilation"))
    reach = [(k - 1) * d + 1 for k, d in zip(KERNEL.shape, dilation)]
    before = [{"same": (r - 1) // 2, "valid": 0}.get(padding, padding) for r in reach]
    return [(r - 1) // 2 - b for r, b in zip(reach, before)], list(stride)


def correlated(source, target, **options):
    big.plan(source, KERNEL, target, **options).run(progress=False)
    return cl.filter_image(X, KERNEL.astype(np.float32), **options)


def test_pixels_lie_where_those_of_an_array_in_memory_do():
    for kernel_size, options in (((3, 4), {}), ((2, 5), {"padding": 1, "stride": 2}), ((4, 4), {"dilation": 3})):
        geometry = geometry_of((50, 60), kernel_size, (0, 1), **options)
        options = {"stride": 1, "padding": "same", "dilation": 1} | options
        assert tuple(grids_of(geometry).values()) == grids((50, 60), kernel_size, **options)


# GeoTIFF.


def geotiff(path, points, transform, **options):
    """Write a GeoTIFF by GDAL."""
    rasterio = pytest.importorskip("rasterio")
    about = {"driver": "GTiff", "height": 60, "width": 70, "count": 1, "dtype": "float32", "crs": "EPSG:32633"}
    about |= {"transform": rasterio.Affine(*transform), "nodata": -9999.0} | options
    with rasterio.open(path, "w", **about) as file:
        file.update_tags(AREA_OR_POINT="Point" if points else "Area", STATION="north", STATISTICS_MEAN="7")
        file.write(np.broadcast_to(X, (about["count"], 60, 70)).astype(about["dtype"]))
    with rasterio.open(path) as file:
        return file.transform, file.crs


STRAIGHT, TURNED = (10, 0, 500_000, 0, -10, 4_600_000), (8, 6, 500_000, 6, -8, 4_600_000)


@pytest.mark.parametrize("options", WAYS)
@pytest.mark.parametrize(
    ("points", "transform"), [(False, STRAIGHT), (True, STRAIGHT), (False, TURNED), (True, TURNED)]
)
def test_gdal_finds_the_pixels_of_a_geotiff(points, transform, options, tmp_path):
    rasterio = pytest.importorskip("rasterio")
    before, crs = geotiff(tmp_path / "x.tif", points, transform)
    assert before.almost_equals(rasterio.Affine(*transform))
    expected = correlated(tmp_path / "x.tif", tmp_path / "y.tif", **options)
    (row, column), (down, right) = starts_and_steps(options)
    with rasterio.open(tmp_path / "y.tif") as file:
        assert (file.crs, file.nodata, file.count, file.dtypes) == (crs, -9999.0, 1, ("float32",))
        np.testing.assert_array_equal(file.read(1), expected)
        for i, j in ((0, 0), (5, 3)):  # centres of pixels
            found = file.transform @ (j + 0.5, i + 0.5)
            wanted = before @ (column + right * j + 0.5, row + down * i + 0.5)
            np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)
        assert file.tags()["AREA_OR_POINT"] == ("Point" if points else "Area")
        assert file.tags()["STATION"] == "north"
        assert "STATISTICS_MEAN" not in file.tags()


@pytest.mark.parametrize("interleave", ["pixel", "band"])
def test_bands_integers_and_nodata_of_a_geotiff(interleave, tmp_path):
    rasterio = pytest.importorskip("rasterio")
    before, crs = geotiff(tmp_path / "x.tif", False, STRAIGHT, count=4, dtype="uint8", nodata=99, interleave=interleave)
    big.plan(tmp_path / "x.tif", KERNEL / 15, tmp_path / "y.tif", dtype="same").run(progress=False)
    holes = np.where(X == 99, np.float32(np.nan), X)
    expected = np.rint(cl.filter_image(holes, KERNEL.astype(np.float32) / 15))
    with rasterio.open(tmp_path / "y.tif") as file:
        assert (file.count, file.nodata, file.crs, file.transform) == (4, 99, crs, before)
        assert file.dtypes == ("uint8",) * 4
        assert file.interleaving.value.lower() == interleave
        for band in file.read():
            np.testing.assert_array_equal(band, np.where(np.isnan(expected), 99, expected))


def test_a_geotiff_goes_to_zarr_and_back(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    geotiff(tmp_path / "x.tif", True, STRAIGHT, count=2)
    options = {"stride": 2, "padding": 1}
    correlated(tmp_path / "x.tif", tmp_path / "y.zarr", **options)
    stored = zarr.open_array(str(tmp_path / "y.zarr"))
    assert stored.attrs["ModelPixelScaleTag"][:2] == [20, 20]
    assert (open_source(tmp_path / "y.zarr").nodata, stored.attrs["nodata"]) == (-9999, -9999)
    big.plan(tmp_path / "y.zarr", [[1.0]], tmp_path / "z.tif").run(progress=False)
    correlated(tmp_path / "x.tif", tmp_path / "y.tif", **options)
    with rasterio.open(tmp_path / "z.tif") as found, rasterio.open(tmp_path / "y.tif") as expected:
        assert found.profile == expected.profile
        np.testing.assert_array_equal(found.read(), expected.read())
        assert "correlate with a kernel" in found.tags()["TIFFTAG_IMAGEDESCRIPTION"]


def test_control_points_become_other_pixels():
    tags = {"ModelTiepointTag": [10, 20, 0, 7, 8, 0, 30, 40, 0, 9, 9, 0]}
    found = geography(tags, Grid(1, 2), Grid(0, 4))
    # the corner u of a result lies at 2 u + 1 - 1/2 and 4 v - 3/2 of the source
    assert found["ModelTiepointTag"] == [4.75, 5.375, 0, 7, 8, 0, 14.75, 10.375, 0, 9, 9, 0]
    assert geography({}, Grid(1, 2), Grid(0, 4)) == {}


def test_nodata_that_is_given_or_no_number(tmp_path):
    for nodata, attribute in ((float("nan"), "NaN"), (3.5, 3.5), (7, 7)):
        x = X.copy()
        x[5, 5] = nodata
        big.plan(x, KERNEL, tmp_path / "y.zarr", nodata=nodata).run(progress=False)
        assert zarr.open_array(str(tmp_path / "y.zarr")).attrs["nodata"] == attribute
        np.testing.assert_equal(open_source(tmp_path / "y.zarr").nodata, nodata)
        big.plan(tmp_path / "y.zarr", KERNEL, tmp_path / "y.tif").run(progress=False)
        np.testing.assert_equal(open_source(tmp_path / "y.tif").nodata, nodata)
    known = Source("x", X, attributes={"_FillValue": 1}, nodata=1)
    geometry = geometry_of(X.shape, (3, 3), (0, 1))
    assert moved(known, geometry, "", 5)[0]["_FillValue"] == 5
    assert "nodata" not in moved(known, geometry, "", 5)[0]
    assert "nodata" not in moved(Source("x", X), geometry, "")[0]


# OME.


def test_ome_tiff_keeps_its_axes_and_sizes(tmp_path):
    sizes = {"PhysicalSizeX": 0.25, "PhysicalSizeY": 0.5, "PhysicalSizeZ": 2.0, "PhysicalSizeZUnit": "mm"}
    sizes |= {"TimeIncrement": 3.0, "TimeIncrementUnit": "min"}
    x = np.broadcast_to(X, (2, 3, 4, 60, 70)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "x.ome.tif", x, ome=True, metadata={"axes": "TCZYX", **sizes})
    options = {"stride": (2, 3), "padding": "valid"}
    expected = correlated(tmp_path / "x.ome.tif", tmp_path / "y.tif", **options)
    with tifffile.TiffFile(tmp_path / "y.tif") as file:
        assert file.is_ome
        assert file.series[0].axes == "TCZYX"
        found = tifffile.xml2dict(file.ome_metadata)["OME"]["Image"]["Pixels"]
        np.testing.assert_array_equal(file.asarray()[1, 2, 3], expected)
    assert {name: found[name] for name in sizes} == sizes | {"PhysicalSizeX": 0.75, "PhysicalSizeY": 1.0}
    assert found["PhysicalSizeYUnit"] == "µm"
    big.plan(tmp_path / "x.ome.tif", KERNEL, tmp_path / "y.zarr", **options).run(progress=False)
    group = zarr.open_group(str(tmp_path / "y.zarr"), mode="r")
    np.testing.assert_array_equal(group["0"][1, 2, 3], expected)
    (level,) = group.attrs["ome"]["multiscales"][0]["datasets"]
    assert level["coordinateTransformations"][0]["scale"] == [3.0, 1.0, 2.0, 1.0, 0.75]
    assert level["coordinateTransformations"][1]["translation"] == [0, 0, 0, 0.5, 0.5]
    pytest.importorskip("ome_zarr_models").v05.Image.from_zarr(group)
    big.plan(tmp_path / "y.zarr", [[1.0]], tmp_path / "z.tif").run(progress=False)
    with tifffile.TiffFile(tmp_path / "z.tif") as file:
        again = tifffile.xml2dict(file.ome_metadata)["OME"]["Image"]["Pixels"]
    assert {name: again[name] for name in sizes} == {name: found[name] for name in sizes}


@pytest.mark.parametrize(("axes", "shape"), [("ZCYX", (2, 3, 20, 30)), ("YXS", (20, 30, 3))])
def test_axes_of_ome_tiff_that_ome_zarr_does_not_have(axes, shape, tmp_path):
    x = np.ones(shape, np.uint8)
    metadata = {"axes": axes, "PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "nm"}
    tifffile.imwrite(tmp_path / "x.ome.tif", x, ome=True, metadata=metadata, photometric="rgb" if "S" in axes else None)
    big.plan(tmp_path / "x.ome.tif", KERNEL, tmp_path / "y.zarr", stride=2, padding=1).run(progress=False)
    assert zarr.open_array(str(tmp_path / "y.zarr")).metadata.dimension_names == tuple(axes.lower())
    big.plan(tmp_path / "y.zarr", KERNEL, tmp_path / "y.tif", stride=2, padding=1).run(progress=False)
    with tifffile.TiffFile(tmp_path / "y.tif") as file:
        assert (file.is_ome, file.series[0].axes) == (True, axes)
        found = tifffile.xml2dict(file.ome_metadata)["OME"]["Image"]["Pixels"]
    assert (found["PhysicalSizeX"], found["PhysicalSizeXUnit"]) == (2.0, "nm")


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_the_ome_zarr_that_is_written_is_valid(version, tmp_path):
    models = pytest.importorskip("ome_zarr_models")
    space = [{"name": name, "type": "space", "unit": "micrometer"} for name in "yx"]
    image = {"axes": [{"name": "c", "type": "channel"}, *space], "name": "cells"}
    level = {"path": "s0", "coordinateTransformations": [{"type": "scale", "scale": [1.0, 0.5, 0.25]}]}
    whole = {"coordinateTransformations": [{"type": "scale", "scale": [1.0, 2.0, 2.0]}]}
    scales = [image | {"datasets": [level]} | whole | ({"version": "0.4"} if version == "0.4" else {})]
    attributes = {"multiscales": scales} if version == "0.4" else {"ome": {"version": "0.5", "multiscales": scales}}
    older = version == "0.4"
    group = zarr.open_group(str(tmp_path / "x.zarr"), mode="w", zarr_format=2 if older else 3, attributes=attributes)
    named = {} if older else {"dimension_names": ("c", "y", "x")}
    group.create_array("s0", data=np.stack([X, X]), chunks=(1, 32, 32), **named)
    expected = correlated(tmp_path / "x.zarr", tmp_path / "y.zarr", stride=2, padding=0)
    result = zarr.open_group(str(tmp_path / "y.zarr"), mode="r")
    module = models.v04 if older else models.v05
    found = module.Image.from_zarr(result)
    described = (found.attributes if older else found.ome_attributes).multiscales[0]
    assert [transform.model_dump() for transform in described.datasets[0].coordinateTransformations] == [
        {"type": "scale", "scale": [1.0, 1.0, 0.5]},
        {"type": "translation", "translation": [0.0, 0.5, 0.5]},
    ]
    np.testing.assert_array_equal(result["0"][1], expected)
    assert pixel_sizes(dict(result.attrs), 3)[1:] == [("y", 2.0, "micrometer"), ("x", 1.0, "micrometer")]
    assert pixel_sizes(dict(result.attrs), 2) is None
    big.plan(tmp_path / "y.zarr", [[1.0]], tmp_path / "y.tif").run(progress=False)
    with tifffile.TiffFile(tmp_path / "y.tif") as file:
        pixels = tifffile.xml2dict(file.ome_metadata)["OME"]["Image"]["Pixels"]
        assert (pixels["PhysicalSizeY"], pixels["PhysicalSizeX"], pixels["PhysicalSizeXUnit"]) == (2.0, 1.0, "µm")


def test_resolution_of_a_picture_follows_its_stride(tmp_path):
    tifffile.imwrite(tmp_path / "x.tif", X, resolution=(300, 150), resolutionunit="CENTIMETER")
    correlated(tmp_path / "x.tif", tmp_path / "y.zarr", stride=(2, 3), padding=1)
    big.plan(tmp_path / "y.zarr", [[1.0]], tmp_path / "y.tif").run(progress=False)
    with tifffile.TiffFile(tmp_path / "y.tif") as file:
        assert file.pages[0].get_resolution() == (100, 75)
        assert file.pages[0].resolutionunit.name == "CENTIMETER"


# FITS.


@pytest.mark.parametrize("options", WAYS)
def test_a_header_follows_the_pixels_as_that_of_a_file_in_memory(options, tmp_path):
    fits, wcs = pytest.importorskip("astropy.io.fits"), pytest.importorskip("astropy.wcs")
    from convolith.cli.io.fits_headers import carried

    coordinates = {"CRPIX1": 30.0, "CRPIX2": 40.0, "CD1_1": -0.1, "CD1_2": 0.02, "CD2_1": 0.02, "CD2_2": 0.1}
    header = fits.Header({"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 10.0, "CRVAL2": 20.0, "OBJECT": "M 31"})
    header.update(coordinates)
    fits.writeto(tmp_path / "x.fits", X, header)
    correlated(tmp_path / "x.fits", tmp_path / "y.zarr", **options)
    text = zarr.open_array(str(tmp_path / "y.zarr")).attrs["fits_header"]
    found = fits.Header.fromstring(text, sep="\n")
    places = dict(enumerate(grids(X.shape, KERNEL.shape, *(options.get(n, d) for n, d in _USUAL))))
    expected = carried(header, places, 2, "correlate with a kernel of (1, 1, 3, 5)")
    left_out = ("SIMPLE", "BITPIX", "NAXIS", "NAXIS1", "NAXIS2", "EXTEND")
    assert [str(card) for card in found.cards] == [str(card) for card in expected.cards if card.keyword not in left_out]
    (row, column), (down, right) = starts_and_steps(options)
    before, after = wcs.WCS(fits.getheader(tmp_path / "x.fits")), wcs.WCS(found)
    np.testing.assert_allclose(
        after.pixel_to_world_values(4, 7), before.pixel_to_world_values(column + 4 * right, row + 7 * down)
    )
    twice = fits.Header.fromstring(moved_header(text, places, 2, "again"), sep="\n")
    assert len(twice["HISTORY"]) == 2
    assert "NAXIS1" not in text


_USUAL = (("stride", 1), ("padding", "same"), ("dilation", 1))


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("kind", ["uint16", "int8", "uint32", "scaled", "blank"])
def test_fits_pixels_with_a_scale_are_read_in_blocks_as_in_memory(tmp_path, kind, compressed):
    fits = pytest.importorskip("astropy.io.fits")
    x = np.random.default_rng(0).integers(-100, 100, (30, 40))
    header = {"BSCALE": 0.5, "BZERO": 7.0} if kind == "scaled" else {"BLANK": -5} if kind == "blank" else {}
    if header:
        unit = fits.PrimaryHDU(x.astype(np.int16))
        unit.header.update(header)
    else:
        unit = fits.PrimaryHDU((x + (kind.startswith("u") * 40_000)).astype(kind))
    units = [unit]
    if compressed and kind != "int8":  # which astropy does not compress
        units = [fits.PrimaryHDU(), fits.CompImageHDU(unit.data, unit.header)]
    path = tmp_path / "x.fits"
    fits.HDUList(units).writeto(path)
    with fits.open(path, memmap=False) as file:
        expected = file[-1].data
    source = open_source(path)
    assert source.dtype.newbyteorder("=") == expected.dtype.newbyteorder("=")
    np.testing.assert_array_equal(source.array[3:20, 5:40], expected[3:20, 5:40])
    big.plan(path, KERNEL, tmp_path / "y.zarr").run(progress=False)
    result = np.asarray(zarr.open(tmp_path / "y.zarr", mode="r"))
    native = expected.astype(expected.dtype.newbyteorder("="))
    np.testing.assert_allclose(result, cl.filter_image(native, KERNEL, padding="same"), rtol=1e-5)
