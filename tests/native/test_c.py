"""C programs, compiled here with Debian's clang and wasi-libc, run through the command line."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from ..conftest import Sojourn

pytestmark = pytest.mark.native

FILES = r"""
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#define CHECK(x) do { if (!(x)) fail(__LINE__, #x); } while (0)
static void fail(int line, const char *what) {
  printf("line %d: %s (%s)\n", line, what, strerror(errno));
  exit(1);
}
int main(int argc, char **argv) {
  char buffer[64], path[256];
  struct stat st;
  snprintf(path, sizeof path, "%s/file", argv[1]);
  int fd = open(path, O_CREAT | O_EXCL | O_RDWR, 0600);
  CHECK(fd >= 0);
  CHECK(write(fd, "hello world", 11) == 11);
  CHECK(lseek(fd, 6, SEEK_SET) == 6);
  CHECK(read(fd, buffer, 64) == 5 && !memcmp(buffer, "world", 5));
  CHECK(pwrite(fd, "W", 1, 6) == 1 && pread(fd, buffer, 1, 6) == 1 && buffer[0] == 'W');
  CHECK(ftruncate(fd, 5) == 0 && fstat(fd, &st) == 0 && st.st_size == 5);
  CHECK(close(fd) == 0 && close(fd) == -1 && errno == EBADF);
  CHECK(open(path, O_CREAT | O_EXCL | O_RDWR, 0600) == -1 && errno == EEXIST);
  char other[256], dir[256];
  snprintf(other, sizeof other, "%s/other", argv[1]);
  snprintf(dir, sizeof dir, "%s/dir", argv[1]);
  CHECK(mkdir(dir, 0700) == 0 && rename(path, other) == 0);
  CHECK(stat(path, &st) == -1 && errno == ENOENT);
  CHECK(symlink("other", path) == 0 && readlink(path, buffer, 64) == 5);
  CHECK(stat(path, &st) == 0 && st.st_size == 5);
  CHECK(lstat(path, &st) == 0 && S_ISLNK(st.st_mode));
  int names = 0;
  DIR *listing = opendir(argv[1]);
  CHECK(listing);
  for (struct dirent *e; (e = readdir(listing));) names += e->d_name[0] != '.';
  CHECK(names == 3 && closedir(listing) == 0);
  CHECK(unlink(dir) == -1 && rmdir(dir) == 0 && unlink(path) == 0 && unlink(other) == 0);
  snprintf(path, sizeof path, "%s/../../../etc/passwd", argv[1]);
  CHECK(open(path, O_RDONLY) == -1 && open("/etc/passwd", O_RDONLY) == -1);
  puts("fine");
  return 0;
}
"""
ARGUMENTS = r"""
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
int main(int argc, char **argv) {
  for (int i = 1; i < argc; i++) printf("%s\n", argv[i]);
  printf("%s %s\n", getenv("LEVEL"), getenv("HOME") ? "leaked" : "none");
  struct timespec a, b, nap = {0, 20000000};
  clock_gettime(CLOCK_MONOTONIC, &a);
  nanosleep(&nap, 0);
  clock_gettime(CLOCK_MONOTONIC, &b);
  fprintf(stderr, "%d\n", (b.tv_sec - a.tv_sec) * 1000000000L + b.tv_nsec - a.tv_nsec >= 20000000);
  return argc;
}
"""
# What a program is told of the outside before it asks for anything: its preopened directories.
PREOPENS = r"""
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <wasi/api.h>
int main(int argc, char **argv) {
  __wasi_prestat_t stat;
  for (int fd = 3; __wasi_fd_prestat_get(fd, &stat) == 0; fd++) {
    char name[256] = "";
    __wasi_fd_prestat_dir_name(fd, (uint8_t *)name, stat.u.dir.pr_name_len);
    printf("%d %s\n", fd, name);
  }
  for (int i = 1; i < argc; i++) {
    errno = 0;
    int fd = open(argv[i], O_RDONLY);
    printf("%s %s\n", argv[i], fd >= 0 ? "opened" : strerror(errno));
  }
  shutdown(3, SHUT_RD);
  printf("%s\n", strerror(errno));
}
"""
RECURSE = (
    "int f(int n) { volatile char a[100]; a[0] = n; return f(n + 1) + a[0]; } int main(void) { return f(0); }"
)
HOG = r"""
#include <stdlib.h>
#include <string.h>
char *volatile kept;
int main(void) { for (;;) { kept = malloc(1 << 20); if (!kept) return 1; memset(kept, 1, 1 << 20); } }
"""
OPEN = r"""
#include <fcntl.h>
int main(void) {
  for (int i = 0; i < 100000; i++)
    if (open("/tmp/x", O_CREAT | O_RDWR, 0600) < 0) return 9;
  return 0;
}
"""
FILL = r"""
#include <fcntl.h>
#include <unistd.h>
static char block[65536];
int main(void) {
  int fd = open("/tmp/x", O_CREAT | O_RDWR, 0600);
  for (int i = 0; i < 100; i++) if (write(fd, block, sizeof block) < 0) return 9;
  return 0;
}
"""


def build(tmp_path: Path, source: str) -> str:
    compiler = shutil.which("clang") or "clang"
    (tmp_path / "prog.c").write_text(source)
    target = tmp_path / "prog.wasm"
    command = [compiler, "--target=wasm32-wasi", "-O1", str(tmp_path / "prog.c"), "-o", str(target)]
    subprocess.run(command, check=True, capture_output=True)
    return str(target)


@pytest.mark.parametrize("where", ["/tmp", "/data", "relative"])
def test_files(sojourn: Sojourn, tmp_path: Path, where: str) -> None:
    grants = []
    if where != "/tmp":
        (tmp_path / "host").mkdir()
        grants = ["--grant", f"dir:host={where}:rw"]
    done = sojourn("run", *grants, build(tmp_path, FILES), where)
    assert (done.stdout, done.returncode) == ("fine\n", 0)


def test_a_directory_granted_as_the_root(sojourn: Sojourn, tmp_path: Path) -> None:
    (tmp_path / "host").mkdir()
    done = sojourn("run", "--grant", "dir:host=/:rw", build(tmp_path, FILES), "/")
    assert (done.stdout, done.returncode) == ("fine\n", 0)


def test_arguments_environment_clock(sojourn: Sojourn, tmp_path: Path) -> None:
    done = sojourn("run", "--env", "LEVEL=3", build(tmp_path, ARGUMENTS), "a b", "--c")
    assert (done.stdout, done.stderr, done.returncode) == ("a b\n--c\n3 none\n", "1\n", 3)


@pytest.mark.parametrize(
    ("source", "flags", "status", "words"),
    [
        (RECURSE, [], 134, "trap"),
        (HOG, ["--memory", "20M"], 125, "memory_bytes"),
        (OPEN, ["--descriptors", "50"], 125, "descriptors"),
        (FILL, ["--files", "1M"], 125, "file_bytes"),
        (OPEN, ["--files", "100"], 2, "less than a guest begins with"),
    ],
)
def test_what_is_too_much(
    sojourn: Sojourn, tmp_path: Path, source: str, flags: list[str], status: int, words: str
) -> None:
    done = sojourn("run", *flags, build(tmp_path, source))
    assert done.returncode == status
    assert words in done.stderr


@pytest.mark.parametrize(
    ("grants", "lines"),
    [
        ([], ["3 /tmp", "in/file Capabilities insufficient", "/in/file Capabilities insufficient"]),
        (["dir:in=in"], ["3 in", "4 /tmp", "in/file opened", "/in/file opened"]),
        (["dir:in"], ["3 in", "4 /tmp", "in/file opened", "/in/file opened"]),
        (["dir:./in/"], ["3 in", "4 /tmp", "in/file opened", "/in/file opened"]),
        (["dir:in=/in", "dir:in=other"], ["3 /in", "4 other", "5 /tmp", "in/file opened", "/in/file opened"]),
        (
            ["dir:in=/tmp"],
            ["3 /tmp", "in/file Capabilities insufficient", "/in/file Capabilities insufficient"],
        ),
        (["dir:.=."], ["3 .", "in/file opened", "/in/file opened"]),
        (["dir:.=./"], ["3 ./", "in/file opened", "/in/file opened"]),
        (["dir:.=/"], ["3 /", "in/file opened", "/in/file opened"]),
        (["dir:in=./in"], ["3 ./in", "4 /tmp", "in/file opened", "/in/file opened"]),
    ],
)
def test_a_program_is_told_of_what_was_granted(
    sojourn: Sojourn, tmp_path: Path, grants: list[str], lines: list[str]
) -> None:
    """And of nothing else but private memory: a path outside of that is beyond its capabilities."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "file").write_text("x")
    flags = [flag for grant in grants for flag in ("--grant", grant)]
    done = sojourn("run", *flags, build(tmp_path, PREOPENS), "in/file", "/in/file")
    assert done.stdout.splitlines() == [*lines, "Bad file descriptor"]


@pytest.mark.parametrize(
    ("grants", "lines", "paths"),
    [
        (["dir:in/file=/etc/conf"], ["3 /etc", "4 /tmp"], ["/etc/conf", "etc/conf"]),
        (["dir:in/file"], ["3 in", "4 /tmp"], ["in/file", "/in/file"]),
        (["dir:in/file=conf"], ["3 .", "4 /tmp"], ["conf", "/conf"]),
        (["dir:in/file=/conf", "dir:in=/data"], ["3 /data", "4 /", "5 /tmp"], ["/conf", "/data/file"]),
        (["dir:in/file=/a/b", "dir:in/file=/a/c"], ["3 /a", "4 /tmp"], ["/a/b", "a/c"]),
        (["dir:in/file=/tmp/x"], ["3 /tmp"], ["/tmp/x"]),
        (["dir:in/file=/a/b", "dir:in=/"], ["3 /", "4 /a"], ["/a/b", "/file"]),
    ],
)
def test_a_granted_file_is_found_in_its_directory(
    sojourn: Sojourn, tmp_path: Path, grants: list[str], lines: list[str], paths: list[str]
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "file").write_text("x")
    flags = [flag for grant in grants for flag in ("--grant", grant)]
    done = sojourn("run", *flags, build(tmp_path, PREOPENS), *paths)
    assert done.stdout.splitlines()[:-1] == [*lines, *(f"{path} opened" for path in paths)]


def test_its_own_files_are_preopened(sojourn: Sojourn, tmp_path: Path) -> None:
    (tmp_path / "data.txt").write_text("x")
    program = build(tmp_path, PREOPENS)
    done = sojourn("run", "--include", "data.txt", program, "/program/data.txt", "data.txt")
    assert done.stdout.splitlines()[:4] == [
        "3 /tmp",
        "4 /program",
        "/program/data.txt opened",
        "data.txt Capabilities insufficient",
    ]
