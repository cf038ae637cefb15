"""How a service listens. Looks at the socket itself: 40 ms that a head waits for its body are no property of a busy machine."""

import socket

import pytest

from tidegate.errors import OperatorError
from tidegate.serving.run import Door, listen


def test_accepted_connections_send_at_once() -> None:
    with listen(Door("x.port", "127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1


def test_a_port_that_is_taken_is_named() -> None:
    with listen(Door("x.port", "127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(OperatorError, match=rf"x\.port: 127\.0\.0\.1:{port} cannot be listened on"):
            listen(Door("x.port", "127.0.0.1", port))
