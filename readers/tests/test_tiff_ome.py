"""OME-TIFF: planes where the XML says they are, in one file or several; sizes with units; what is missing is said, never guessed."""

import re
from contextlib import suppress
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from emporter_contracts.commands import Select
from emporter_readers.array import MemorySource
from emporter_readers.discover import discover
from emporter_readers.errors import AmbiguousContentError, CorruptObjectError, ReaderError, UnsupportedContentError
from emporter_readers.protocol import Hints
from emporter_readers.testing import tiff_bytes, volumes_of

PLANES = np.arange(12 * 6 * 7).reshape(12, 6, 7).astype("uint16")


def xml(pixels="", data="<TiffData/>", order="XYZCT", sizes=(12, 1, 1), channels="", before="", attributes="", image=""):
    z, c, t = sizes
    return (
        f'<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"{attributes}>{before}'
        f'<Image ID="Image:0" Name="cell"{image}><Pixels ID="Pixels:0" DimensionOrder="{order}" Type="uint16" SizeX="7" SizeY="6" '
        f'SizeZ="{z}" SizeC="{c}" SizeT="{t}" {pixels}>{channels}{data}</Pixels></Image></OME>'
    )


def a_file(description, planes=PLANES, name="a.ome.tif"):
    return MemorySource(name, tiff_bytes(planes, description=description.encode(), metadata=None))


def read(*sources, hints=None):
    return volumes_of(list(sources), hints)


class TestPlanes:
    @pytest.mark.parametrize("order", ["XYZCT", "XYZTC", "XYCTZ", "XYCZT", "XYTCZ", "XYTZC"])
    def test_planes_lie_in_the_dimension_order(self, order):
        sizes = {"Z": 2, "C": 3, "T": 2}
        stacked = PLANES.reshape(*(sizes[axis] for axis in reversed(order[2:])), 6, 7)
        moved = np.moveaxis(stacked, [order[:1:-1].index(axis) for axis in "CTZ"], [0, 1, 2])
        volumes = read(a_file(xml(order=order, sizes=(2, 3, 2))))
        assert len(volumes) == 6
        for c in range(3):
            for t in range(2):
                np.testing.assert_array_equal(volumes[f"s0-c{c}-t{t}"], moved[c, t], strict=True)

    def test_pages_named_one_by_one_are_taken_in_that_order(self):
        data = "".join(f'<TiffData FirstZ="{11 - k}" IFD="{k}" PlaneCount="1"/>' for k in range(12))
        np.testing.assert_array_equal(read(a_file(xml(data=data)))[""], PLANES[::-1])

    def test_runs_of_pages_are_taken_where_they_begin(self):
        data = '<TiffData FirstZ="4" IFD="0" PlaneCount="8"/><TiffData IFD="8" PlaneCount="4"/>'
        np.testing.assert_array_equal(read(a_file(xml(data=data)))[""], np.concatenate([PLANES[8:], PLANES[:8]]))

    @pytest.mark.parametrize(
        "data",
        [
            '<TiffData IFD="0" PlaneCount="11"/>',
            '<TiffData IFD="0"/>',
            '<TiffData IFD="1" PlaneCount="12"/>',
            '<TiffData FirstZ="1" PlaneCount="12"/>',
            '<TiffData FirstZ="-1" PlaneCount="12"/>',
        ],
    )
    def test_planes_without_a_page_are_an_error_never_zeros(self, data):
        with pytest.raises(CorruptObjectError, match=r"a\.ome\.tif"):
            discover([a_file(xml(data=data))], Hints())

    @pytest.mark.parametrize("sizes", [(13, 1, 1), (10**9, 1, 1), (10**9, 10**9, 10**9), (0, 1, 1)])
    def test_more_planes_than_pages_are_an_error(self, sizes):
        with pytest.raises(CorruptObjectError):
            discover([a_file(xml(sizes=sizes))], Hints())

    def test_pages_of_another_size_than_the_xml_says_are_an_error(self):
        with pytest.raises(CorruptObjectError, match="says 6 x 7 pixels, its pages are 6 x 8"):
            discover([a_file(xml(), np.zeros((12, 6, 8), "uint16"))], Hints())

    def test_two_images_are_two_series(self):
        first = xml(data='<TiffData IFD="0" PlaneCount="5"/>', sizes=(5, 1, 1))
        second = xml(data='<TiffData IFD="5" PlaneCount="7"/>', sizes=(7, 1, 1))
        image = re.search("<Image.*</Image>", second)[0]
        volumes = read(a_file(first.replace("</OME>", image + "</OME>")))
        np.testing.assert_array_equal(volumes["s0-c0-t0"], PLANES[:5])
        np.testing.assert_array_equal(volumes["s1-c0-t0"], PLANES[5:])

    @pytest.mark.parametrize(
        "text",
        ["<OME", '<!DOCTYPE x [<!ENTITY a "b">]><OME>&a;</OME>', "<OME></OME>", xml(order="ZYXCT"), xml(sizes=("x", 1, 1))],
    )
    def test_damaged_xml_is_an_error(self, text):
        with pytest.raises(CorruptObjectError, match=r"a\.ome\.tif"):
            discover([a_file(text if text.endswith("OME>") else text + " OME>")], Hints())


class TestVoxelSizes:
    @pytest.mark.parametrize(
        ("pixels", "nm"),
        [
            ("", (None, None, None)),
            ('PhysicalSizeX="0.008" PhysicalSizeY="0.004"', (None, 4.0, 8.0)),
            ('PhysicalSizeX="8" PhysicalSizeXUnit="nm" PhysicalSizeZ="0.05" PhysicalSizeZUnit="µm"', (50.0, None, 8.0)),
            ('PhysicalSizeX="80" PhysicalSizeXUnit="Å"', (None, None, 8.0)),
            ('PhysicalSizeX="8" PhysicalSizeXUnit="pixel"', (None, None, None)),
            ('PhysicalSizeX="8" PhysicalSizeXUnit="reference frame"', (None, None, None)),
            ('PhysicalSizeX="0" PhysicalSizeY="-1" PhysicalSizeZ="NaN"', (None, None, None)),
            ('PhysicalSizeX="INF" PhysicalSizeY="eight" PhysicalSizeZ=""', (None, None, None)),
        ],
    )
    def test_sizes_are_nanometres_and_what_is_missing_is_unknown(self, pixels, nm):
        (volume,) = discover([a_file(xml(pixels))], Hints())
        assert volume.voxel_size.nm == tuple(None if n is None else pytest.approx(n) for n in nm)
        assert volume.voxel_size.said_by == tuple(None if n is None else "file" for n in nm)


class TestSets:
    """One image over several files."""

    def files(self, names=("a.ome.tif", "b.ome.tif")):
        data = "".join(
            f'<TiffData FirstZ="{6 * k}" IFD="0" PlaneCount="6"><UUID FileName="{name}">urn:uuid:{k}</UUID></TiffData>'
            for k, name in enumerate(("a.ome.tif", "b.ome.tif"))
        )
        return [
            a_file(xml(data=data, attributes=f' UUID="urn:uuid:{k}"'), PLANES[6 * k : 6 * k + 6], f"set/{name}")
            for k, name in enumerate(names)
        ]

    def test_the_files_of_a_set_are_one_volume_in_whatever_order_they_come(self):
        first, second = self.files()
        for order in ([first, second], [second, first]):
            np.testing.assert_array_equal(read(*order)[""], PLANES)

    def test_a_set_with_a_file_missing_is_refused_with_its_name(self):
        with pytest.raises(UnsupportedContentError, match=r"b\.ome\.tif") as refusal:
            discover(self.files()[:1], Hints())
        assert "folder" in refusal.value.hint

    def test_a_file_that_leaves_its_planes_to_another_is_refused_with_the_others_name(self):
        binary = (
            '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
            '<BinaryOnly MetadataFile="m.companion.ome" UUID="urn:uuid:9"/></OME>'
        )
        with pytest.raises(UnsupportedContentError, match=r"m\.companion\.ome"):
            discover([a_file(binary)], Hints())

    def test_binary_only_files_are_read_by_the_master_among_them(self):
        first, _ = self.files()
        binary = '<?xml version="1.0"?><OME><BinaryOnly MetadataFile="a.ome.tif" UUID="urn:uuid:1"/></OME>'
        np.testing.assert_array_equal(read(a_file(binary, PLANES[6:], "set/b.ome.tif"), first)[""], PLANES)

    def test_a_file_that_was_renamed_still_knows_itself(self):
        data = '<TiffData IFD="0" PlaneCount="12"><UUID FileName="original.ome.tif">urn:uuid:7</UUID></TiffData>'
        for attributes in (' UUID="urn:uuid:7"', ""):
            np.testing.assert_array_equal(read(a_file(xml(data=data, attributes=attributes)))[""], PLANES)


class TestSamplesPerPixel:
    def test_rgb_counts_as_one_channel(self):
        grey = PLANES[:2].astype("uint8")
        description = xml(sizes=(2, 3, 1), channels='<Channel ID="Channel:0" SamplesPerPixel="3"/>')
        data = tiff_bytes(np.stack([grey] * 3, axis=-1), photometric="rgb", description=description, metadata=None)
        np.testing.assert_array_equal(read(MemorySource("a.ome.tif", data))[""], grey)


class TestPyramids:
    levels = (PLANES[:3].repeat(4, 1).repeat(4, 2), PLANES[:3].repeat(2, 1).repeat(2, 2), PLANES[:3])

    def source(self, tmp_path, metadata):
        path = tmp_path / "a.ome.tif"
        with tifffile.TiffWriter(path, ome=metadata is not None) as file:
            file.write(self.levels[0], photometric="minisblack", subifds=2, metadata=metadata, tile=(16, 16))
            for level in self.levels[1:]:
                file.write(level, photometric="minisblack", subfiletype=1, metadata=None, tile=(16, 16))
        return MemorySource("a.ome.tif", path.read_bytes())

    @pytest.mark.parametrize("metadata", [{"axes": "ZYX", "PhysicalSizeX": 0.008, "PhysicalSizeZ": 0.04}, None])
    def test_each_level_can_be_chosen_and_the_finest_is_the_default(self, tmp_path, metadata):
        source = self.source(tmp_path, metadata)
        np.testing.assert_array_equal(read(source)[""], self.levels[0])
        for level, expected in enumerate(self.levels):
            hints = Hints(select=Select(level=level))
            np.testing.assert_array_equal(read(source, hints=hints)[""], expected, strict=True)
            (volume,) = discover([source], hints)
            assert ("resampled" in {caveat.code for caveat in volume.caveats}) == (level > 0)
            if metadata:
                assert volume.voxel_size.nm == (pytest.approx(40.0), None, pytest.approx(8.0 * 2**level))

    def test_a_level_that_is_not_there_is_refused_with_those_that_are(self, tmp_path):
        with pytest.raises(AmbiguousContentError, match="level 3") as refusal:
            discover([self.source(tmp_path, None)], Hints(select=Select(level=3)))
        assert "0 to 2" in refusal.value.hint


class TestAcquisition:
    """What OME says in typed words."""

    INSTRUMENT = (
        '<Instrument ID="Instrument:1"><Microscope Manufacturer="Zeiss" Model="Crossbeam 550"/>'
        '<Detector ID="Detector:1" Manufacturer="Zeiss" Model="InLens"/>'
        '<Objective ID="Objective:1" Model="GEMINI" NominalMagnification="12500"/></Instrument>'
    )
    OF_IMAGE = '<AcquisitionDate>2018-06-11T22:27:00</AcquisitionDate><InstrumentRef ID="Instrument:1"/><ObjectiveSettings ID="Objective:1"/>'
    CHANNELS = (
        '<Channel ID="Channel:0" Name="InLens"><DetectorSettings ID="Detector:1"/></Channel><Channel ID="Channel:1" Name="ESB"/>'
    )
    PLANES = (
        '<TiffData/><Plane TheZ="0" TheT="0" TheC="0" ExposureTime="250" ExposureTimeUnit="ms"/>'
        '<Plane TheZ="0" TheT="0" TheC="1" ExposureTime="0.5"/>'
    )

    def found(self, **parts):
        given = {"before": self.INSTRUMENT, "image": self.OF_IMAGE, "channels": self.CHANNELS, "data": self.PLANES, **parts}
        described = xml('SignificantBits="12"', sizes=(6, 2, 1), **{k: v for k, v in given.items() if k != "image"})
        described = described.replace("<Pixels", given["image"] + "<Pixels", 1)
        return [volume.acquisition for volume in discover([a_file(described)], Hints())]

    def test_instrument_objective_detector_exposure_and_channel_are_typed_by_channel(self):
        first, second = self.found()
        assert first.acquired_at.isoformat() == "2018-06-11T22:27:00"
        assert (first.microscope, first.objective, first.nominal_magnification) == ("Zeiss Crossbeam 550", "GEMINI", 12500)
        assert (first.detector, first.exposure_seconds, first.channel, first.significant_bits) == (
            "Zeiss InLens",
            0.25,
            "InLens",
            12,
        )
        assert (second.detector, second.exposure_seconds, second.channel) == (None, 0.5, "ESB")
        assert set(first.said_by.values()) == {"file"}
        assert "detector" not in second.said_by

    def test_what_is_of_no_such_type_counts_as_not_said(self):
        first, _ = self.found(
            image="<AcquisitionDate>last Tuesday</AcquisitionDate><InstrumentRef ID='Instrument:9'/>",
            data='<TiffData/><Plane TheC="0" ExposureTime="-1"/><Plane TheC="1" ExposureTime="1" ExposureTimeUnit="fortnight"/>',
        )
        assert first.said_by.keys() == {"channel", "significant_bits"}

    def test_a_file_that_says_nothing_says_nothing(self):
        (volume,) = discover([a_file(xml())], Hints())
        assert volume.acquisition.said_by == {}


@given(st.data())
def test_ome_xml_with_anything_in_it_is_read_or_refused_by_one_of_our_errors(data):
    """Attributes, elements and text of the schema, with values of every kind."""
    values = st.one_of(
        st.sampled_from(["", "0", "1", "-1", "2", "1e400", "nan", "99999999999999999999", "XYZCT", "µm", "ms", "\u0661"]),
        st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8),
    )
    names = ["SizeX", "SizeZ", "SizeC", "IFD", "FirstZ", "FirstC", "PlaneCount", "ID", "TheC", "ExposureTime", "SamplesPerPixel"]
    names += ["PhysicalSizeX", "PhysicalSizeZUnit", "DimensionOrder", "FileName", "NominalMagnification", "SignificantBits"]
    tags = [
        "Image",
        "Pixels",
        "TiffData",
        "UUID",
        "Channel",
        "Plane",
        "Instrument",
        "Microscope",
        "DetectorSettings",
        "BinaryOnly",
    ]

    def element(depth):
        attributes = data.draw(st.dictionaries(st.sampled_from(names), values, max_size=4))
        said = "".join(f" {key}={quoteattr(value)}" for key, value in attributes.items())
        tag = data.draw(st.sampled_from(tags))
        inner = "".join(element(depth - 1) for _ in range(data.draw(st.integers(0, 2)) if depth else 0))
        return f"<{tag}{said}>{inner or escape(data.draw(values))}</{tag}>"

    more = element(2)
    for described in (xml(data=f"<TiffData/>{more}"), xml(before=more), xml(channels=more)):
        with suppress(ReaderError):
            discover([a_file(described)], Hints())


@pytest.mark.parametrize(
    "bomb",
    [
        '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>',
        '<!DOCTYPE x SYSTEM "http://127.0.0.1:1/x.dtd">',
        '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>',
    ],
)
def test_entities_in_ome_xml_are_refused_before_anything_is_expanded(bomb):
    with pytest.raises(CorruptObjectError, match="entities"):
        discover([a_file(xml().replace("<OME ", bomb + "<OME ", 1))], Hints())
