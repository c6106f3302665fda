"""SQLite, CSV, compression of three kinds, hashes, archives, files that stay open, temporary ones."""

import bz2
import csv
import hashlib
import io
import lzma
import os
import sqlite3
import tempfile
import zipfile
import zlib

base = sqlite3.connect("/tmp/base.db")
base.execute("create table t (k integer primary key, v text, n real)")
kept = open("/tmp/kept.txt", "w+")  # noqa: SIM115 - open throughout
squeezer = zlib.compressobj(9)
squeezed = b""
for turn in range(10):
    with base:
        base.executemany(
            "insert into t values (?, ?, ?)",
            ((turn * 500 + i, f"value {i * 31 % 97}", i / 3) for i in range(500)),
        )
    print(
        turn,
        base.execute("select v, count(*), sum(n) from t group by v order by 2 desc, 1 limit 2").fetchall(),
    )
    rows = io.StringIO()
    csv.writer(rows).writerows(base.execute("select * from t where k % 7 = ?", (turn % 7,)))
    data = rows.getvalue().encode() * 3
    squeezed += squeezer.compress(data)
    for module in (zlib, bz2, lzma):
        assert module.decompress(module.compress(data)) == data
    print(
        *(
            hashlib.new(name, data).hexdigest()[:12]
            for name in ("md5", "sha1", "sha256", "sha3_512", "blake2b")
        )
    )
    kept.write(f"{turn} {zlib.crc32(data)}\n")
    kept.flush()
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(f"{folder}/a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("one", data)
            archive.writestr("two", data[::-1])
        with zipfile.ZipFile(f"{folder}/a.zip") as archive:
            print(archive.testzip(), [item.CRC for item in archive.infolist()], os.listdir(folder))
base.close()
kept.seek(0)
print(kept.read())
squeezed += squeezer.flush()
print(hashlib.sha256(zlib.decompress(squeezed)).hexdigest())
