"""Reading, writing, seeking: files and streams."""

from __future__ import annotations

import struct

import pytest

from sojourn.vm.process.wasi import kernel
from sojourn.vm.process.wasi.abi import Errno, FdFlags, FileType, Rights
from sojourn.vm.process.wasi.kernel import IOV_MAX, NoMemory
from sojourn.vm.process.wasi.outside import LimitReached, Stopped

from .helpers import ALL_RIGHTS, RW, FakeSink, FakeSource, Guest

APPEND, NONBLOCK = FdFlags.APPEND, FdFlags.NONBLOCK
MAX = (1 << 63) - 1


def test_a_file_is_written_and_read_with_one_offset() -> None:
    g = Guest()
    fd = g.open("f", oflags=1)
    assert g.write(fd, b"hello world") == 11
    assert g.seek(fd, -5, 1) == 6
    assert g.read(fd, 3) == b"wor"
    assert g.read(fd) == b"ld"
    assert g.read(fd) == b""
    g.ok("fd_tell", fd, g.OUT)
    assert g.u64() == 11


def test_several_buffers_are_gathered_and_scattered() -> None:
    g = Guest()
    fd = g.open("f", oflags=1)
    g.put(g.DATA, b"abcdefghij")
    g.ok("fd_write", fd, *g.vectors([0, 3, 0, 4, 3]), g.OUT)
    assert g.u32() == 10
    g.seek(fd, 0)
    g.put(g.DATA, b"\0" * 20)
    g.ok("fd_read", fd, *g.vectors([1, 0, 4, 10]), g.OUT)
    assert g.u32() == 10
    assert g.get(g.DATA, 12) == b"abcdefghij\0\0"


def test_no_buffers_at_all() -> None:
    g = Guest()
    fd = g.open("f", oflags=1)
    for name, target in (("fd_write", fd), ("fd_read", fd), ("fd_write", 1), ("fd_read", 0)):
        g.put(g.OUT, b"\xff" * 4)
        g.ok(name, target, g.VECTORS, 0, g.OUT)
        assert g.u32() == 0


def test_pread_and_pwrite_leave_the_offset() -> None:
    g = Guest()
    fd = g.open("f", oflags=1)
    g.write(fd, b"0123456789")
    g.put(g.DATA, b"XY")
    g.ok("fd_pwrite", fd, *g.vectors([2]), 4, g.OUT)
    g.ok("fd_pread", fd, *g.vectors([3]), 3, g.OUT)
    assert g.get(g.DATA, g.u32()) == b"3XY"
    g.ok("fd_pread", fd, *g.vectors([3]), 100, g.OUT)
    assert g.u32() == 0
    assert g.seek(fd, 0, 1) == 10


def test_writing_nothing_leaves_the_offset_where_it_is() -> None:
    g = Guest()
    g.make_file("f", b"text")
    for flags in (0, APPEND):
        fd = g.open("f", flags=flags)
        g.seek(fd, 2)
        assert g.write(fd, b"") == 0
        assert g.seek(fd, 0, 1) == 2


def test_append_writes_at_the_end_and_moves_there() -> None:
    g = Guest()
    fd = g.open("f", oflags=1, flags=APPEND, rights=ALL_RIGHTS)
    g.write(fd, b"ab")
    g.seek(fd, 0)
    g.write(fd, b"cd")
    assert g.seek(fd, 0, 1) == 4
    g.ok("fd_fdstat_set_flags", fd, 0)
    g.seek(fd, 0)
    g.write(fd, b"X")
    g.seek(fd, 0)
    assert g.read(fd) == b"Xbcd"


@pytest.mark.parametrize(
    ("offset", "whence", "expected"),
    [
        (0, 2, 10),
        (-10, 2, 0),
        (5, 0, 5),
        (90, 1, 100),
        (MAX, 0, MAX),
        (-11, 2, Errno.EINVAL),
        (-1, 0, Errno.EINVAL),
        (-(1 << 63), 1, Errno.EINVAL),
        (MAX, 2, Errno.EOVERFLOW),
        (0, 3, Errno.EINVAL),
        (0, 1 << 31, Errno.EINVAL),
    ],
)
def test_seek(offset: int, whence: int, expected: int) -> None:
    g = Guest()
    fd = g.open("f", oflags=1)
    g.write(fd, b"0123456789")
    if isinstance(expected, Errno):
        assert g.call("fd_seek", fd, offset, whence, g.OUT) == expected
        assert g.seek(fd, 0, 1) == 10
    else:
        assert g.seek(fd, offset, whence) == expected


@pytest.mark.parametrize(
    ("name", "args", "expected"),
    [
        ("fd_pread", (MAX + 1,), Errno.EINVAL),
        ("fd_pwrite", (MAX + 1,), Errno.EINVAL),
        ("fd_pwrite", (MAX,), Errno.EFBIG),
        ("fd_pwrite", (1 << 50,), Errno.EFBIG),
        ("fd_pread", (MAX,), Errno.SUCCESS),
    ],
)
def test_extreme_offsets(name: str, args: tuple[int, ...], expected: Errno) -> None:
    g = Guest()
    fd = g.open("f", oflags=1)
    assert g.call(name, fd, *g.vectors([1]), *args, g.OUT) == expected


def test_writing_at_an_extreme_offset() -> None:
    g = Guest()
    fd = g.open("f", oflags=1)
    g.seek(fd, MAX)
    assert g.call("fd_write", fd, *g.vectors([1]), g.OUT) == Errno.EFBIG
    assert g.read(fd) == b""
    g.seek(fd, 1 << 30)
    g.ok("fd_write", fd, *g.vectors([1]), g.OUT)  # a hole costs nothing


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (0, Errno.SUCCESS),
        (100, Errno.SUCCESS),
        (1 << 50, Errno.EFBIG),
        (MAX + 1, Errno.EINVAL),
        ((1 << 64) - 1, Errno.EINVAL),
    ],
)
def test_set_size(size: int, expected: Errno) -> None:
    g = Guest()
    fd = g.open("f", oflags=1, rights=ALL_RIGHTS)
    g.write(fd, b"0123456789")
    assert g.call("fd_filestat_set_size", fd, size) == expected
    assert g.fstat(fd)[4] == (size if expected == Errno.SUCCESS else 10)


@pytest.mark.parametrize(
    ("offset", "length", "expected", "size"),
    [
        (0, 100, Errno.SUCCESS, 100),
        (2, 3, Errno.SUCCESS, 10),
        (5, 20, Errno.SUCCESS, 25),
        (0, 0, Errno.EINVAL, 10),
        (MAX, 1, Errno.EFBIG, 10),
        (MAX + 1, 1, Errno.EINVAL, 10),
        (1 << 45, 1, Errno.EFBIG, 10),
    ],
)
def test_allocate(offset: int, length: int, expected: Errno, size: int) -> None:
    g = Guest()
    fd = g.open("f", oflags=1, rights=ALL_RIGHTS)
    g.write(fd, b"0123456789")
    assert g.call("fd_allocate", fd, offset, length) == expected
    assert g.fstat(fd)[4] == size


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ((0, 10, 0), Errno.SUCCESS),
        ((0, 0, 5), Errno.SUCCESS),
        ((0, 10, 6), Errno.EINVAL),
        ((MAX, 1, 0), Errno.EINVAL),
        ((1 << 63, 0, 0), Errno.EINVAL),
    ],
)
def test_advise(args: tuple[int, ...], expected: Errno) -> None:
    g = Guest()
    assert g.call("fd_advise", g.open("f", oflags=1, rights=ALL_RIGHTS), *args) == expected


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("fd_read", (512, 1, 256)),
        ("fd_pread", (512, 1, 0, 256)),
        ("fd_write", (512, 1, 256)),
        ("fd_pwrite", (512, 1, 0, 256)),
        ("fd_seek", (0, 0, 256)),
        ("fd_seek", (0, 1, 256)),
        ("fd_seek", (0, 2, 256)),
        ("fd_tell", (256,)),
        ("fd_allocate", (0, 1)),
        ("fd_advise", (0, 1, 0)),
        ("fd_filestat_set_size", (0,)),
    ],
)
def test_a_directory_is_no_file(name: str, args: tuple[int, ...]) -> None:
    expected = Errno.EINVAL if name == "fd_filestat_set_size" else Errno.EBADF
    assert Guest().call(name, 3, *args) == expected


@pytest.mark.parametrize(
    ("name", "args", "expected"),
    [
        ("fd_pread", (512, 1, 0, 256), Errno.ESPIPE),
        ("fd_seek", (0, 1, 256), Errno.ESPIPE),
        ("fd_tell", (256,), Errno.ESPIPE),
        ("fd_advise", (0, 1, 0), Errno.ESPIPE),
        ("fd_allocate", (0, 1), Errno.ESPIPE),
        ("fd_write", (512, 1, 256), Errno.EBADF),
        ("fd_pwrite", (512, 1, 0, 256), Errno.EBADF),
        ("fd_sync", (), Errno.EINVAL),
        ("fd_datasync", (), Errno.EINVAL),
        ("fd_filestat_set_size", (0,), Errno.EINVAL),
        ("fd_filestat_set_times", (0, 0, 0), Errno.ENOTCAPABLE),
        ("fd_readdir", (512, 100, 0, 256), Errno.ENOTDIR),
    ],
)
def test_a_stream_is_no_file(name: str, args: tuple[int, ...], expected: Errno) -> None:
    assert Guest().call(name, 0, *args) == expected


@pytest.mark.parametrize(
    ("rights", "name", "args", "expected"),
    [
        (Rights.FD_WRITE, "fd_read", (512, 1, 256), Errno.EBADF),
        (Rights.FD_WRITE, "fd_pread", (512, 1, 0, 256), Errno.EBADF),
        (Rights.FD_READ, "fd_write", (512, 1, 256), Errno.EBADF),
        (Rights.FD_READ, "fd_pwrite", (512, 1, 0, 256), Errno.EBADF),
        (Rights.FD_READ, "fd_seek", (0, 0, 256), Errno.ENOTCAPABLE),
        (Rights.FD_READ | Rights.FD_TELL, "fd_seek", (0, 1, 256), Errno.SUCCESS),
        (Rights.FD_READ | Rights.FD_TELL, "fd_seek", (1, 1, 256), Errno.ENOTCAPABLE),
        (Rights.FD_READ | Rights.FD_SEEK, "fd_tell", (256,), Errno.SUCCESS),
        (Rights.FD_READ, "fd_tell", (256,), Errno.ENOTCAPABLE),
        (Rights.FD_READ, "fd_advise", (0, 0, 0), Errno.ENOTCAPABLE),
        (Rights.FD_READ | Rights.FD_ALLOCATE, "fd_allocate", (0, 1), Errno.EBADF),
        (Rights.FD_WRITE, "fd_allocate", (0, 1), Errno.ENOTCAPABLE),
        (Rights.FD_READ | Rights.FD_FILESTAT_SET_SIZE, "fd_filestat_set_size", (0,), Errno.EINVAL),
        (Rights.FD_WRITE, "fd_filestat_set_size", (0,), Errno.ENOTCAPABLE),
        (Rights.FD_READ, "fd_filestat_get", (256,), Errno.ENOTCAPABLE),
        (Rights.FD_READ, "fd_filestat_set_times", (0, 0, 0), Errno.ENOTCAPABLE),
        (Rights.FD_READ, "fd_sync", (), Errno.ENOTCAPABLE),
        (Rights.FD_READ, "fd_fdstat_set_flags", (0,), Errno.ENOTCAPABLE),
        (Rights.FD_SYNC, "fd_datasync", (), Errno.SUCCESS),
        (Rights.FD_DATASYNC, "fd_sync", (), Errno.ENOTCAPABLE),
        (0, "fd_fdstat_get", (256,), Errno.SUCCESS),
    ],
)
def test_rights_of_files(rights: int, name: str, args: tuple[int, ...], expected: Errno) -> None:
    g = Guest()
    g.make_file("f", b"data")
    fd = g.open("f", rights=rights)
    g.vectors([1])
    assert g.call(name, fd, *args) == expected


# -- streams --


def test_stdout_and_stderr_go_to_their_sinks_and_are_counted() -> None:
    g = Guest()
    g.write(1, b"out")
    g.write(2, b"error")
    g.put(g.DATA, b"xyz")
    g.ok("fd_write", 1, *g.vectors([1, 2]), g.OUT)
    assert isinstance(g.stdout, FakeSink)
    assert (bytes(g.stdout.data), bytes(g.stderr.data)) == (b"outxyz", b"error")
    assert g.system.output_bytes == 11


def test_output_up_to_the_limit_is_written_then_the_process_ends() -> None:
    g = Guest(output_bytes=10, stdout=FakeSink(most=3))
    g.put(g.DATA, b"0123456789abc")
    g.ok("fd_write", 2, *g.vectors([4]), g.OUT)
    with pytest.raises(LimitReached) as caught:
        g.call("fd_write", 1, *g.vectors([13]), g.OUT)
    assert caught.value.name == "output_bytes"
    assert isinstance(g.stdout, FakeSink)
    assert bytes(g.stdout.data) == b"012345"
    assert g.system.output_bytes == 10
    with pytest.raises(LimitReached):
        g.call("fd_write", 1, *g.vectors([1]), g.OUT)
    g.ok("fd_write", 1, *g.vectors([0]), g.OUT)


def test_a_short_write_is_told() -> None:
    g = Guest(stdout=FakeSink(most=3))
    assert g.write(1, b"0123456789") == 3
    assert g.system.output_bytes == 3


def test_a_full_stream_is_waited_for() -> None:
    full = FakeSink(most=0)
    g = Guest(output_bytes=6, stdout=full)
    with pytest.raises(Stopped):  # the process ends while it waits
        g.write(1, b"abc")
    assert (g.system.output_bytes, g.outside.waits) == (0, [None])
    g.outside.on_wait = lambda: setattr(full, "most", 2)
    assert g.write(1, b"abc") == 2
    g.outside.on_wait, full.most = lambda: setattr(full, "most", 9), 0
    with pytest.raises(LimitReached):
        g.write(1, b"defgh")
    assert bytes(full.data) == b"abdefg"


def test_output_up_to_the_limit_is_not_written_twice_when_the_stream_fills_up() -> None:
    class Filling(FakeSink):
        def write(self, data: memoryview) -> int:
            taken = super().write(data)
            self.most = 0
            return taken

    full = Filling(most=4)
    g = Guest(output_bytes=10, stdout=full)
    assert g.write(1, b"0123456789abc") == 4  # a short write, no wait
    full.most = 6
    with pytest.raises(LimitReached):
        g.write(1, b"456789abc")
    assert bytes(full.data) == b"0123456789"


def test_a_full_stream_that_must_not_wait() -> None:
    g = Guest(stdout=FakeSink(most=0))
    g.ok("fd_fdstat_set_flags", 1, FdFlags.NONBLOCK)
    g.put(g.DATA, b"abc")
    assert g.call("fd_write", 1, *g.vectors([3]), g.OUT) == Errno.EAGAIN
    assert g.outside.waits == []


def test_extra_streams_come_after_the_preopens_and_do_not_count() -> None:
    answers = FakeSink()
    g = Guest(extra=[FakeSource(b"question"), answers])
    assert g.system.extra_numbers == (4, 5)
    assert g.read(4) == b"question"
    g.write(5, b"answer")
    assert bytes(answers.data) == b"answer"
    assert g.system.output_bytes == 0
    assert g.call("fd_prestat_get", 4, g.OUT) == Errno.EBADF


def test_stdin_waits_for_data_and_ends() -> None:
    source = FakeSource(b"one", None, None, b"two")
    g = Guest(stdin=source)
    g.outside.on_wait = lambda: None
    assert g.read(0, 2) == b"on"
    assert g.read(0) == b"e"
    assert g.read(0) == b"two"
    assert g.outside.waits == [None, None]
    assert g.read(0) == b""


def test_stdin_scatters_into_several_buffers() -> None:
    g = Guest(stdin=FakeSource(b"abcdef"))
    g.ok("fd_read", 0, *g.vectors([2, 0, 3]), g.OUT)
    assert (g.u32(), g.get(g.DATA, 5)) == (5, b"abcde")
    assert g.read(0) == b"f"


def test_stdin_without_blocking() -> None:
    g = Guest(stdin=FakeSource(None, b"x"))
    g.ok("fd_fdstat_set_flags", 0, NONBLOCK)
    assert g.call("fd_read", 0, *g.vectors([1]), g.OUT) == Errno.EAGAIN
    assert g.read(0) == b"x"


def test_a_wait_can_be_stopped() -> None:
    g = Guest(stdin=FakeSource(None))
    with pytest.raises(Stopped):
        g.call("fd_read", 0, *g.vectors([1]), g.OUT)


@pytest.mark.parametrize(("tty", "expected"), [(True, FileType.CHARACTER_DEVICE), (False, FileType.UNKNOWN)])
def test_a_terminal_is_a_character_device_that_cannot_seek(tty: bool, expected: FileType) -> None:
    g = Guest(stdin=FakeSource(tty=tty), stdout=FakeSink(tty=tty))
    for fd in (0, 1):
        kind, _, rights, _ = g.fdstat(fd)
        assert kind == expected
        assert not rights & (Rights.FD_SEEK | Rights.FD_TELL)
        assert g.fstat(fd)[2] == expected


# -- pointers --


@pytest.mark.parametrize("name", ["fd_read", "fd_write"])
def test_bad_pointers(name: str) -> None:
    g = Guest(stdin=FakeSource(b"abc" * 10))
    size = len(g.memory.view)
    fd = 0 if name == "fd_read" else 1
    assert g.call(name, fd, size - 7, 1, g.OUT) == Errno.EFAULT
    assert g.call(name, fd, 0xFFFFFFFF, 1, g.OUT) == Errno.EFAULT
    assert g.call(name, fd, *g.vectors([4]), size - 3) == Errno.EFAULT
    assert g.call(name, fd, g.VECTORS, IOV_MAX + 1, g.OUT) == Errno.EINVAL
    for pointer, length in ((size - 1, 2), (0xFFFFFFFF, 0xFFFFFFFF), (1, 0xFFFFFFFF), (size + 1, 0)):
        g.put(g.VECTORS, struct.pack("<II", pointer, length))
        assert g.call(name, fd, g.VECTORS, 1, g.OUT) == Errno.EFAULT
    assert isinstance(g.stdout, FakeSink)
    assert not g.stdout.data


def test_memory_that_grew_is_seen() -> None:
    g = Guest()
    size = len(g.memory.view)
    g.put(g.VECTORS, struct.pack("<II", size + 100, 4))
    g.memory.grow(65536)
    g.ok("fd_write", 1, g.VECTORS, 1, g.OUT)
    assert g.call("fd_write", 1, g.VECTORS, 1, size + 65536) == Errno.EFAULT


def test_without_memory_every_pointer_is_bad() -> None:
    g = Guest()
    g.system.attach_memory(NoMemory())
    assert g.system.fd_write(1, 0, 1, 0) == Errno.EFAULT
    assert g.system.random_get(0, 0) == Errno.SUCCESS


def test_one_call_moves_a_bounded_amount(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "IO_BYTES_MAX", 100)
    g = Guest()
    fd = g.open("f", oflags=1)
    for sizes in ([150], [60, 60, 60], [99, 5, 0, 7]):
        g.ok("fd_write", fd, *g.vectors(sizes), g.OUT)
        assert g.u32() == 100
    g.seek(fd, 0)
    for sizes in ([150], [60, 60, 60]):
        g.ok("fd_read", fd, *g.vectors(sizes), g.OUT)
        assert g.u32() == 100


def test_synced_writes_ask_the_file() -> None:
    g = Guest()
    fd = g.open("f", oflags=1, flags=FdFlags.SYNC)
    asked: list[bool] = []
    file = g.system.descriptors[fd].file
    assert file is not None
    file.sync = lambda data_only: asked.append(data_only)  # type: ignore[method-assign]
    g.write(fd, b"x")
    g.system.descriptors[fd].flags = int(FdFlags.DSYNC)
    g.ok("fd_pwrite", fd, *g.vectors([1]), 0, g.OUT)
    assert asked == [False, True]


def test_rw_rights_are_enough_for_plain_files() -> None:
    g = Guest()
    assert g.fdstat(g.open("f", oflags=1, rights=RW))[2] == RW


def test_a_source_may_hand_on_its_own_buffers() -> None:
    class Buffers:
        tty = False

        def __init__(self) -> None:
            self.data = memoryview(b"0123456789")

        def read_nowait(self, size: int) -> memoryview:
            piece, self.data = self.data[:size], self.data[size:]
            return piece

    g = Guest(stdin=Buffers())
    g.ok("fd_read", 0, *g.vectors([1, 3]), g.OUT)
    assert g.get(g.DATA, g.u32()) == b"0123"
    assert g.read(0) == b"456789"
    assert g.read(0) == b""
