#!/usr/bin/env python3
"""Copies the reference results that the tests carry with them: python3 scripts/copy-golden.py SHARED_GOLDEN tests/data

Whole: bf16-tiny and long-yarn. Of quant-kernels only the element conversions (encode.*, *.values), 33 KB of 1.9 MB,
as tests/data/quant-kernels/encode.safetensors.
"""
import json
import pathlib
import shutil
import struct
import sys


def copy_tensors(source, target, wanted):
    """Writes the tensors of a safetensors file whose names `wanted` accepts, in the order of their data."""
    data = source.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8:8 + size])
    picked, body = {}, b""
    entries = [(name, entry) for name, entry in header.items() if name != "__metadata__" and wanted(name)]
    for name, entry in sorted(entries, key=lambda item: item[1]["data_offsets"]):
        begin, end = (8 + size + offset for offset in entry["data_offsets"])
        picked[name] = dict(entry, data_offsets=[len(body), len(body) + end - begin])
        body += data[begin:end]
    text = json.dumps(picked, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % 64)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(struct.pack("<Q", len(text)) + text + body)


def main():
    golden, data = (pathlib.Path(argument) for argument in sys.argv[1:])
    for name in ("bf16-tiny", "long-yarn"):
        target = data / "golden" / name
        target.mkdir(parents=True, exist_ok=True)
        for file in sorted((golden / name).iterdir()):
            shutil.copyfile(file, target / file.name)
    copy_tensors(golden / "quant-kernels" / "expected.safetensors", data / "quant-kernels" / "encode.safetensors",
                 lambda name: name.startswith("encode.") or name.endswith(".values"))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main()
