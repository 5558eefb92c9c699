"""Which addresses are out on the internet."""

import httpcore
import pytest

from emporter_runtime.addresses import NotPublicError, PublicBackend, is_public


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1::1", "::ffff:93.184.216.34", "64:ff9b::808:808"])
def test_an_address_on_the_internet_is_public(address):
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "192.168.0.1", "172.16.0.1", "169.254.169.254", "0.0.0.0", "224.0.0.1", "255.255.255.255", "100.64.0.1", "::1", "::", "ff02::1",
        "fe80::1%eth0", "fd00::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::",
    ],
)  # fmt: skip
def test_an_address_of_a_private_network_is_not_however_it_is_wrapped(address):
    assert not is_public(address)


async def test_a_name_that_leads_inward_is_not_connected_to():
    with pytest.raises(NotPublicError, match="localhost"):
        await PublicBackend().connect_tcp("localhost", 9, 5.0)


async def test_a_name_that_leads_nowhere_is_a_failed_connection():
    with pytest.raises(httpcore.ConnectError):
        await PublicBackend().connect_tcp("no.such.name.invalid", 9, 5.0)
