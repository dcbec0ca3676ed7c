"""Server: the other side of a probe.  It answers who has shown to be where it says it is.

A client first gets a cookie, for which nothing is kept here, and only who brings it back
becomes a session.  Sessions are few and end when nothing comes; what is no message of
theirs is counted and gets no answer.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import struct
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

from batching import Conn

from .bursts import Ends
from .control import TOKEN, Kind, Message
from .session import Session
from .shapes import Shape

__all__ = ["Server"]

_MAX_SESSIONS: Final = 16
_IDLE_S: Final = 10.0
_EPOCH_S: Final = 30.0  # a cookie is good for this one and the next
_TURN_S: Final = 1.0  # idle sessions are looked for that often


class Server:
    """It runs over a ``Conn``, which it does not close, until ``stop`` or an exception."""

    def __init__(self, conn: Conn, log: Callable[[str], None]) -> None:
        self._conn, self._log = conn, log
        self._secret = os.urandom(32)
        self._sessions: dict[Ends, Session] = {}
        self._stopped = False
        self.counts: Counter[str] = Counter()
        """Of sessions, and of datagrams that were ignored."""

    def stop(self) -> None:
        """Let ``run`` return; a signal handler may call it."""
        self._stopped = True
        self._conn.set_read_deadline(time.monotonic())

    def run(self) -> None:
        """Serve until stopped."""
        while not self._stopped:
            self._conn.settimeout(self._wait_s())
            with contextlib.suppress(BlockingIOError, TimeoutError, ConnectionError):
                for train in self._conn.recv_segments():
                    ends = Ends(train.addr, train.local_addr)
                    for data in train.tolist():
                        self._take(data, ends)
            for session in list(self._sessions.values()):
                self._serve(session)

    def _wait_s(self) -> float:
        """Return for how long to wait for datagrams: until a burst is due."""
        sending = [each.sending for each in self._sessions.values() if each.sending]
        return min((each.wait_s() for each in sending), default=_TURN_S)

    def _serve(self, session: Session) -> None:
        """Send what is due; forget who has gone."""
        session.step()
        if time.monotonic() > session.last_heard + _IDLE_S:
            self._forget(session, "no word for 10 s")

    def _take(self, data: bytes, ends: Ends) -> None:
        session = self._sessions.get(ends)
        message = Message.unpack(data)
        if message is None:
            if session is None or not session.take_data(data):
                self.counts["ignored"] += 1
            return
        answer = self._answer(message, ends, session)
        if answer is None:
            self.counts["ignored"] += 1
            return
        with contextlib.suppress(OSError):  # it asks again
            packed = answer.pack()
            if len(packed) <= len(data):
                self._conn.send_segments([ends.train(packed, len(packed))])

    def _answer(self, message: Message, ends: Ends, session: Session | None) -> Message | None:
        if message.kind is Kind.HELLO:
            cookie = self._cookie(message.token, ends, 0)
            return Message(Kind.COOKIE, message.number, message.token, cookie)
        if message.kind is Kind.START:
            return self._start(message, ends)
        if session is None or not hmac.compare_digest(session.token, message.token):
            return None
        answer = session.answer(message)
        if message.kind is Kind.END:
            self._forget(session, "done")
        return answer

    def _start(self, message: Message, ends: Ends) -> Message | None:
        nonce, packed = message.body[:TOKEN], message.body[TOKEN:]
        good = (self._cookie(nonce, ends, age) for age in (0, 1))
        if not any(hmac.compare_digest(cookie, message.token) for cookie in good):
            return None
        try:
            shapes = Shape.unpack(packed)
        except ValueError:
            return None
        session = self._sessions.get(ends)
        if session is None and len(self._sessions) >= _MAX_SESSIONS:
            self.counts["turned away"] += 1
            return Message(Kind.BUSY, message.number, message.token)
        if session is None or session.token != message.token:
            self._sessions[ends] = Session(self._conn, ends, message.token, shapes)
            self.counts["clients"] += 1
        limit = struct.pack("!H", self._conn.offload.max_segments)
        return Message(Kind.READY, message.number, message.token, limit)

    def _cookie(self, nonce: bytes, ends: Ends, age: int) -> bytes:
        """Return what only who receives at the client's address can know."""
        epoch = int(time.monotonic() / _EPOCH_S) - age
        text = f"{epoch} {ends.peer!r} ".encode() + nonce
        return hashlib.blake2b(text, key=self._secret, digest_size=TOKEN).digest()

    def _forget(self, session: Session, why: str) -> None:
        self._sessions.pop(session.ends, None)
        if not session.n_received:
            return  # no line for who only shakes hands
        host, port = (session.ends.peer or ("?", 0))[:2]
        numbers = f"{session.n_received:,} datagrams in, {session.sent:,} bytes of bursts back"
        self._log(f"[{host}]:{port} {why}: {numbers}")
