from __future__ import annotations

import struct

import httpx
import imagecodecs
import numpy as np
import pytest

from block_server.testing import House, Made


@pytest.fixture(scope="module")
def phantom(house: House) -> Made:
    voxels = np.random.default_rng(0).integers(0, 2**16, (70, 80, 150), dtype="u2")
    return house.commit(Made(voxels, name="thin"))


def test_a_boss_cutout_is_the_box_in_blosc_or_raw(web: httpx.Client, phantom: Made):
    path = f"/v1/cutout/any/any/{phantom.ref}/1/3:20/5:9/7:30"
    expected = phantom.levels[1][7:30, 5:9, 3:20].tobytes()
    blosc = web.get(path, headers={"accept": "application/blosc"})
    assert blosc.headers["content-type"] == "application/blosc"
    assert imagecodecs.blosc_decode(blosc.content) == expected
    assert imagecodecs.blosc_decode(web.get(path).content) == expected
    assert web.get(path, headers={"accept": "application/octet-stream"}).content == expected
    assert web.get(path, headers={"accept": "application/blosc-python"}).status_code == 406


def test_dvid_raw_is_the_box(web: httpx.Client, phantom: Made):
    answer = web.get(f"/api/node/f00/{phantom.ref}/raw/0_1_2/17_4_23/3_5_7")
    assert answer.content == phantom.voxels[7:30, 5:9, 3:20].tobytes()


def test_dvid_blocks_are_framed_and_those_outside_left_out(web: httpx.Client, phantom: Made):
    answer = web.get(f"/api/node/f00/{phantom.ref}/specificblocks?compression=uncompressed&blocks=0,0,0,9,9,9,2,1,1,1,0,0")
    assert answer.headers["content-length"] == str(len(answer.content))
    padded = np.pad(phantom.voxels, ((0, 58), (0, 48), (0, 42)))
    rest, seen = answer.content, []
    while rest:
        x, y, z, size = struct.unpack("<4i", rest[:16])
        block = np.frombuffer(rest[16 : 16 + size], "<u2").reshape(64, 64, 64)
        assert np.array_equal(block, padded[z * 64 :, y * 64 :, x * 64 :][:64, :64, :64])
        seen.append((x, y, z))
        rest = rest[16 + size :]
    assert seen == [(0, 0, 0), (2, 1, 1), (1, 0, 0)]
    one = web.get(f"/api/node/f00/{phantom.ref}/specificblocks?compression=uncompressed&blocks=0,0,0")
    assert one.content[16:] == phantom.voxels[:64, :64, :64].tobytes()
    assert web.get(f"/api/node/f00/{phantom.ref}/specificblocks?compression=uncompressed&blocks=9,9,9").content == b""


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/cutout/a/b/thin@r1/0/0:151/0:1/0:1", 416),
        ("/v1/cutout/a/b/thin@r1/0/5:5/0:1/0:1", 400),
        ("/v1/cutout/a/b/thin@r1/9/0:1/0:1/0:1", 404),
        ("/v1/cutout/a/b/thin/0/0:1/0:1/0:1", 404),
        ("/api/node/a/thin@r1/raw/0_1_2/0_1_1/0_0_0", 400),
        ("/api/node/a/thin@r1/raw/0_1_2/1_1_1/150_0_0", 416),
        ("/api/node/a/thin@r1/raw/0_1_2/1_1/0_0_0", 400),
        ("/api/node/a/thin@r1/specificblocks?blocks=0,0,0", 415),
        ("/api/node/a/thin@r1/specificblocks?compression=uncompressed&blocks=0,0", 400),
    ],
)
def test_what_is_no_cutout_is_a_problem_with_a_hint(web: httpx.Client, phantom: Made, path: str, status: int):
    answer = web.get(path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["hint"]


@pytest.mark.parametrize(
    "path", ["/v1/cutout/{}/{}/thin/0/0:1/0:1/0:1", "/api/node/{}/thin/raw/0_1_2/1_1_1/0_0_0", "/api/node/{}/thin/specificblocks"]
)
@pytest.mark.parametrize("name", ["%0d%0ax-forged:%201", "\u00fc", "%e2%82%ac"])
def test_names_that_mean_nothing_can_not_forge_headers(web: httpx.Client, phantom: Made, path: str, name: str):
    answer = web.get(path.format(name, name), timeout=10)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_pinned")
    assert "x-forged" not in answer.headers
