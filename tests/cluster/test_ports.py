import socket
import sys

import pytest

from heliostat.cluster import ports


def test_ports_are_free_and_different_and_none_that_the_kernel_gives_to_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    found = ports.free_ports(5)
    assert len({*found}) == 5
    assert all(port in ports.RANGE for port in found)
    with socket.create_server((ports.HOST, found[0])):
        monkeypatch.setattr(ports, "RANGE", range(found[0], found[0] + 1))
        with pytest.raises(OSError, match="only 0 of 1 port "):
            ports.free_ports(1)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems let no server listen on a port that is held")
def test_a_reserved_port_is_nobody_elses_until_its_server_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    with ports.reserved(1) as (port,):
        monkeypatch.setattr(ports, "RANGE", range(port, port + 1))
        with pytest.raises(OSError, match="only 0 of 1 port "):
            ports.free_ports(1)
        assert not ports.listens(port)
        with socket.create_server((ports.HOST, port)):
            assert ports.listens(port)
    assert ports.free_ports(1) == [port]
