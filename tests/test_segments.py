"""Segments: a train as a sequence of datagrams."""

from __future__ import annotations

import array
import copy
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batching.segments import Segments

ADDRESS = ("192.0.2.1", 53)


@given(st.binary(min_size=1, max_size=300), st.integers(1, 400))
def test_datagrams_put_together_are_the_data(data: bytes, segment_size: int) -> None:
    train = Segments(data, segment_size)
    datagrams = train.tolist()
    assert b"".join(datagrams) == data
    assert len(train) == len(datagrams)
    assert all(len(datagram) == segment_size for datagram in datagrams[:-1])
    assert 1 <= len(datagrams[-1]) <= segment_size
    assert [bytes(view) for view in train] == datagrams
    assert [bytes(train[i]) for i in range(len(train))] == datagrams
    assert [bytes(train[i - len(train)]) for i in range(len(train))] == datagrams


@pytest.mark.parametrize("segment_size", [0, 1, 1200])
def test_no_data_is_one_empty_datagram(segment_size: int) -> None:
    train = Segments(b"", segment_size, ADDRESS)
    assert len(train) == 1
    assert train.tolist() == [b""]
    assert [bytes(view) for view in train] == [b""]
    assert bytes(train[0]) == bytes(train[-1]) == b""
    with pytest.raises(IndexError):
        train[1]


def test_data_is_shared_and_read_only() -> None:
    data = bytearray(b"aaabbbc")
    train = Segments(data, 3)
    data[3] = ord("x")
    assert bytes(train[1]) == b"xbb"
    assert train.data.readonly
    assert train[1].readonly


def test_kept_datagram_is_a_view_of_the_same_buffer() -> None:
    data = bytearray(4)
    view = Segments(data, 2)[0]
    assert view.obj is data


def test_items_of_any_size_are_taken_as_bytes() -> None:
    assert Segments(array.array("H", [1, 2]), 3).data.nbytes == 4
    assert len(Segments(array.array("H", [1, 2]), 3)) == 2
    assert Segments(array.array("H"), 3).tolist() == [b""]


def test_empty_view_of_several_dimensions_is_an_empty_datagram() -> None:
    flat = memoryview(b"")
    assert Segments(flat, 0).tolist() == [b""]


@pytest.mark.parametrize("index", [3, -4, 10**30, -(10**30)])
def test_index_out_of_range_says_how_many_there_are(index: int) -> None:
    with pytest.raises(IndexError, match="of 3"):
        Segments(b"aabbc", 2)[index]


@pytest.mark.parametrize(
    "index",
    [slice(0, 1), slice(None), pytest.param("0", id="text"), pytest.param(0.0, id="float")],
)
def test_index_that_is_no_int_is_a_type_error(index: Any) -> None:
    with pytest.raises(TypeError):
        Segments(b"aabb", 2)[index]


@pytest.mark.parametrize(
    ("data", "segment_size", "error", "match"),
    [
        pytest.param(b"a", 0, ValueError, "segment_size 0, must be at least 1", id="zero"),
        pytest.param(b"a", -1, ValueError, "segment_size -1", id="negative"),
        pytest.param(b"", -1, ValueError, "segment_size -1", id="negative without data"),
        pytest.param(b"a", 1.0, TypeError, "int, not float", id="float"),
        pytest.param("a", 1, TypeError, "bytes-like", id="no buffer"),
        pytest.param(memoryview(b"abcd")[::2], 1, ValueError, "contiguous", id="strided"),
    ],
)
def test_unfit_arguments_are_refused(
    data: Any, segment_size: Any, error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        Segments(data, segment_size)


def test_repr_tells_what_it_holds() -> None:
    text = repr(Segments(b"aabbc", 2, ADDRESS))
    assert "3 datagrams" in text
    assert "5 bytes" in text
    assert "192.0.2.1" in text


def test_train_can_be_referred_to_weakly() -> None:
    train = Segments(b"a", 1)
    assert weakref.ref(train)() is train


@given(
    size=st.integers(1, 40),
    n=st.integers(1, 6),
    tail=st.integers(0, 39),
    n_bytes=st.integers(1, 12),
    changed=st.none() | st.tuples(st.integers(0, 5), st.integers(0, 12), st.integers(0, 255)),
)
def test_common_header_is_what_all_datagrams_begin_with(
    size: int, n: int, tail: int, n_bytes: int, changed: tuple[int, int, int] | None
) -> None:
    datagrams = [bytearray(range(size)) for _ in range(n)]
    datagrams[-1] = datagrams[-1][: 1 + tail % size]
    if changed and changed[0] < n and changed[1] < len(datagrams[changed[0]]):
        datagrams[changed[0]][changed[1]] = changed[2]
    found = Segments(b"".join(datagrams), size).common_header(n_bytes)
    headers = {bytes(each[:n_bytes]) for each in datagrams}
    is_common = len(headers) == 1 and min(map(len, datagrams)) >= n_bytes
    assert found == (headers.pop() if is_common else None)


def test_common_header_of_an_empty_datagram_is_none() -> None:
    assert Segments(b"", 0).common_header(8) is None
    with pytest.raises(ValueError, match="n_bytes 0, must be at least 1"):
        Segments(b"data", 2).common_header(0)


class Named(Segments):
    """A train with a name, whose data are always the same."""

    @property
    def data(self) -> Any:
        return memoryview(b"aabbaabb")

    @data.setter
    def data(self, value: Any) -> None:
        pass


def test_what_a_subclass_shows_as_data_is_what_it_is_asked_about() -> None:
    train = Named(b"other", 4, ADDRESS)
    assert (train.nbytes, len(train), train.tolist()) == (8, 2, [b"aabb"] * 2)
    assert train.common_header(3) == b"aab"


def test_a_copy_shares_the_data_and_nothing_is_pickled() -> None:
    train = Segments(bytearray(b"aabbc"), 2, ADDRESS)
    train.truncated = True
    named: Any = Named(b"", 4, ADDRESS)
    named.name = "a name"
    for original in (train, named):
        copied = copy.copy(original)
        assert type(copied) is type(original)
        for name in ("data", "segment_size", "addr", "truncated"):
            assert getattr(copied, name) == getattr(original, name)
        for give in (pickle.dumps, copy.deepcopy):
            with pytest.raises(TypeError, match="pickle"):
                give(original)
    assert copy.copy(train).data.obj is train.data.obj
    assert copy.copy(named).name == "a name"


USES: list[Callable[[Segments], object]] = [
    len,
    lambda train: train.nbytes,
    lambda train: train.common_header(1),
    lambda train: train[0],
    Segments.tolist,
    list,
    repr,
]


@pytest.mark.parametrize("use", USES)
def test_a_train_made_without_its_constructor_has_no_data(use: Any) -> None:
    with pytest.raises(AttributeError):
        use(Segments.__new__(Segments))


@pytest.mark.parametrize("size", [0, -1])
@pytest.mark.parametrize("use", [USES[0], *USES[2:4]])
def test_a_segment_size_that_was_set_below_one_is_refused(use: Any, size: int) -> None:
    train = Segments(b"aabb", 2)
    train.segment_size = size
    with pytest.raises(ValueError, match=f"segment_size {size}, must be at least 1"):
        use(train)
