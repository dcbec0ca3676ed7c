"""What strangers send to either side of a probe: it is ignored, counted, and never echoed."""

from __future__ import annotations

import contextlib
import os
import random
import select
from collections.abc import Iterator

import pytest

pytest.importorskip("typer", reason='needs pip install "udp-batching[cli]"')
pytest.importorskip("rich", reason='needs pip install "udp-batching[cli]"')

from batching import open_conn
from batching.cli.probe import server as server_module
from batching.cli.probe.bursts import bursts_of
from batching.cli.probe.client import Client
from batching.cli.probe.control import HELLO_SIZE, REPORT_SIZE, TOKEN, Kind, Message, Rounds
from batching.cli.probe.server import Server
from batching.cli.probe.shapes import MAX_SHAPES, Shape, plan_shapes
from batching.cli.probe.stamp import Burst, Stamps
from batching.cli.probe.tally import Count, Report, Tally
from loopback import HOST, PATIENCE_S, PlainPeer, start, until

SHAPES = [Shape(64, 2, 64), Shape(1200, 3, 601)]
NONCE = bytes(range(TOKEN))


class Rig:
    """A server in a thread, and a plain socket that speaks to it."""

    def __init__(self, server: Server, peer: PlainPeer, address: tuple[object, ...]) -> None:
        self.server, self.peer, self.address = server, peer, address

    def ask(self, message: Message, length: int = 0, peer: PlainPeer | None = None) -> Message:
        """Return the answer, which must not be longer than the request."""
        peer = peer or self.peer
        packed = message.pack(length)
        peer.send(self.address, packed)
        peer.sock.settimeout(PATIENCE_S)
        data = peer.sock.recv(65536)  # what else comes is the test's
        answer = Message.unpack(data)
        assert answer is not None
        assert len(data) <= len(packed)
        return answer

    def assert_ignored(self, *datagrams: bytes, peer: PlainPeer | None = None) -> None:
        """Fail unless they are counted, and nothing comes back."""
        peer = peer or self.peer
        before = self.server.counts["ignored"]
        peer.send(self.address, *datagrams)
        until(lambda: self.server.counts["ignored"] == before + len(datagrams))
        assert not select.select([peer.sock], [], [], 0)[0]

    def cookie(self, peer: PlainPeer | None = None) -> bytes:
        return self.ask(Message(Kind.HELLO, 1, NONCE), HELLO_SIZE, peer).body

    def session(self) -> bytes:
        """Return the token of a session, made by shaking hands."""
        cookie = self.cookie()
        assert self.ask(begin(cookie)).kind is Kind.READY
        return cookie


def begin(cookie: bytes, nonce: bytes = NONCE) -> Message:
    packed = b"".join(shape.pack() for shape in SHAPES)
    return Message(Kind.START, 2, cookie, nonce + packed)


@pytest.fixture
def rig() -> Iterator[Rig]:
    with open_conn((HOST, 0)) as conn, PlainPeer() as peer:
        server = Server(conn, lambda _: None)
        running = start(server.run)
        try:
            yield Rig(server, peer, conn.local_addr())
        finally:
            server.stop()
            running.result(PATIENCE_S)


# The server


def test_what_is_no_message_gets_no_answer(rig: Rig) -> None:
    chance = random.Random(7)
    hello = Message(Kind.HELLO, 1, NONCE).pack(HELLO_SIZE)
    rig.assert_ignored(b"", b"\0", b"batprobe", hello[:-1], hello + b"\0", hello * 20)
    damaged = [bytearray(hello) for _ in range(50)]
    for each in damaged:
        each[chance.randrange(len(each))] ^= 1 + chance.randrange(255)
    rig.assert_ignored(*map(bytes, damaged), *(chance.randbytes(n) for n in range(200)))
    assert rig.cookie()


def test_an_answer_that_would_be_longer_than_its_request_is_not_sent(rig: Rig) -> None:
    short = Message(Kind.HELLO, 1, NONCE).pack()
    rig.peer.send(rig.address, short)
    assert rig.cookie()  # comes, so the one before was passed over
    assert len(short) < len(Message(Kind.COOKIE, 1, NONCE, NONCE).pack())


def test_a_cookie_is_good_for_its_address_and_nonce_only(rig: Rig) -> None:
    cookie = rig.cookie()
    with PlainPeer() as other:
        rig.assert_ignored(begin(cookie).pack(), peer=other)
    rig.assert_ignored(
        begin(cookie, bytes(TOKEN)).pack(),
        begin(os.urandom(TOKEN)).pack(),
        begin(b"")._replace(token=bytes(TOKEN)).pack(),
    )
    assert rig.server.counts["clients"] == 0


def test_a_session_needs_its_token(rig: Rig) -> None:
    token = rig.session()
    body = Rounds(0, 1, 1).pack()
    for kind in (Kind.REPORT, Kind.SEND, Kind.END):
        rig.assert_ignored(Message(kind, 3, bytes(TOKEN), body).pack(REPORT_SIZE))
    report = rig.ask(Message(Kind.REPORT, 4, token, body), REPORT_SIZE)
    assert Report.unpack(report.body, 2).counts == [Count(lost=2), Count(lost=2)]


@pytest.mark.parametrize(
    "body",
    [b"", b"\0", bytes(10), b"\xff" * 10, Rounds(0, 200, 3).pack(), Rounds(250, 10, 1).pack()],
)
def test_rounds_that_cannot_be_are_ignored(rig: Rig, body: bytes) -> None:
    token = rig.session()
    rig.assert_ignored(
        Message(Kind.REPORT, 3, token, body).pack(REPORT_SIZE),
        Message(Kind.SEND, 3, token, body).pack(REPORT_SIZE),
    )


def test_nobody_is_sent_more_than_he_has_sent(rig: Rig) -> None:
    token = rig.session()
    send = Message(Kind.SEND, 3, token, Rounds(0, 1, 3).pack())
    assert Rounds(*_rounds(rig.ask(send))).mask == 0  # nothing was paid
    stamps, paid = Stamps(token), 0
    for burst in bursts_of(Rounds(0, 1, 1)):
        datagrams = stamps.datagrams(burst, SHAPES[0])
        rig.peer.send(rig.address, *datagrams)
        paid += sum(map(len, datagrams))
    rig.peer.send(rig.address, *[b"\0\0" + bytes(1000)] * 20)  # is of no burst, and pays nothing
    granted = rig.ask(send._replace(number=4))
    assert Rounds(*_rounds(granted)).mask == 1
    assert sum(map(len, rig.peer.collect(4))) == paid
    assert rig.ask(send._replace(number=4)) == granted  # asked again, nothing is sent again
    assert Rounds(*_rounds(rig.ask(send._replace(number=5)))).mask == 0


def _rounds(message: Message) -> tuple[int, int, int]:
    assert message.kind is Kind.SENDING
    first, n, *mask = message.body
    return first, n, int.from_bytes(bytes(mask), "big")


def test_clients_are_bounded_and_one_more_is_told(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "_MAX_SESSIONS", 2)
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(PlainPeer()) for _ in range(3)]
        kinds = [rig.ask(begin(rig.cookie(peer)), peer=peer).kind for peer in peers]
        assert kinds == [Kind.READY, Kind.READY, Kind.BUSY]
        assert rig.ask(begin(rig.cookie(peers[0])), peer=peers[0]).kind is Kind.READY


def test_who_goes_silent_makes_room(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "_MAX_SESSIONS", 1)
    monkeypatch.setattr(server_module, "_IDLE_S", 0.0)
    rig.session()
    with PlainPeer() as other:
        until(lambda: rig.ask(begin(rig.cookie(other)), peer=other).kind is Kind.READY)


# The client


def test_forged_answers_are_ignored_and_counted() -> None:
    with PlainPeer() as peer, open_conn(remote_addr=peer.address) as conn:
        client = Client(conn, SHAPES)
        shaking = start(client.shake_hands, PATIENCE_S)
        data, address = peer.sock.recvfrom(65536)
        hello = Message.unpack(data)
        assert hello is not None
        forged = [
            b"",
            os.urandom(64),
            Message(Kind.COOKIE, hello.number, bytes(TOKEN), NONCE).pack(),
            Message(Kind.COOKIE, hello.number + 1, hello.token, NONCE).pack(),
            Message(Kind.READY, hello.number, hello.token, b"\0\x80").pack(),
        ]
        peer.send(address, *forged, Message(Kind.COOKIE, hello.number, hello.token, NONCE).pack())
        begun = Message.unpack(_next_of(peer, Kind.START))
        assert begun is not None
        peer.send(address, Message(Kind.READY, begun.number, NONCE, b"\0\x40").pack())
        shaking.result(PATIENCE_S)
    assert client.result.ignored == len(forged)
    assert client.result.server_max_segments == 64


def _next_of(peer: PlainPeer, kind: Kind) -> bytes:
    while True:
        data = peer.sock.recv(65536)
        message = Message.unpack(data)
        if message is not None and message.kind is kind:
            return data


# What arrives


def test_a_tally_is_bounded_whatever_comes() -> None:
    stamps = Stamps(NONCE)
    tally = Tally(stamps, SHAPES)
    for number in range(256):
        for shape in range(2):
            for way in range(2):
                assert tally.add(stamps.datagram(Burst(number, shape, way).code, 0, 64))
    assert len(tally._bursts) == 256


def test_what_is_of_no_burst_is_strange() -> None:
    stamps, others = Stamps(NONCE), Stamps(bytes(TOKEN))
    tally = Tally(stamps, SHAPES)
    code = Burst(0, 0, 0).code
    for data in (
        b"",
        bytes(1500),
        NONCE * 10,
        others.datagram(code, 0, 64),
        stamps.datagram(Burst(0, 2, 0).code, 0, 64),  # no such shape
        stamps.datagram(code, 2, 64),  # of two datagrams
        stamps.datagram(code, 0, 15),
    ):
        assert not tally.add(data)
    assert (tally.strange, tally.n_taken) == (7, 0)


def test_any_piece_of_a_datagram_tells_its_place() -> None:
    stamps = Stamps(NONCE)
    whole = stamps.datagram(Burst(3, 1, 1).code, 2, 1200)
    assert stamps.place(whole) == (Burst(3, 1, 1).code, 2, True)
    for start_at in range(0, 1150, 7):
        piece = whole[start_at : start_at + 40]
        assert stamps.place(piece) == (Burst(3, 1, 1).code, 2, False)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(5),
        bytes(6),
        Shape(64, 2, 65).pack(),
        Shape(64, 129, 64).pack(),
        Shape(1200, 55, 1200).pack(),
        Shape(64, 2, 64).pack() * (MAX_SHAPES + 1),
    ],
)
def test_shapes_that_cannot_be_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="shape"):
        Shape.unpack(data)


@pytest.mark.parametrize("room", [40, 548, 1200, 1452, 1472, 8972, 65507])
@pytest.mark.parametrize("limit", [64, 128])
def test_planned_shapes_can_be_sent_and_fit_a_message(room: int, limit: int) -> None:
    shapes = plan_shapes(room, limit)
    packed = b"".join(shape.pack() for shape in shapes)
    assert Shape.unpack(packed) == shapes
    message = Message(Kind.START, 1, NONCE, NONCE + packed)
    assert Message.unpack(message.pack()) == message
    assert {2, 3, 16 if room < 4000 else 3} <= {shape.segments for shape in shapes}
    assert max(shape.segments for shape in shapes) == limit
    assert max(shape.size for shape in shapes) == min(room, 8972)
