"""What lies in a dead gateway's journals, read from their segments as its next start would.

A segment is a header block of 4096 bytes, then batches at multiples of 4096, each of records at multiples of 64; see
`Sources/Gateway/Spool/Journal/JournalFormat.swift`. Only headers are judged here: contents are the arrivals' business.
"""

from __future__ import annotations

import struct
from pathlib import Path

BLOCK, UNIT = 4096, 64
DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
SEGMENT, BATCH, RECORD = b"PSTNJRN1", b"PJB1", b"JR"
PARCEL, SETTLE = 1, 2

TABLE = []
for byte in range(256):
    for _ in range(8):
        byte = byte >> 1 ^ 0x82F63B78 if byte & 1 else byte >> 1
    TABLE.append(byte)


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def words(queue_id: bytes) -> str:
    """The id as it is printed."""
    text = ""
    for half in reversed(struct.unpack("<QQ", queue_id)):
        for _ in range(11):
            half, digit = divmod(half, 62)
            text = DIGITS[digit] + text
    return text


def spooled(folder: Path) -> set[tuple[str, str]]:
    """Parcels without an end: queue id and domain."""
    segments = []
    for path in folder.glob("*.segment"):
        data = path.read_bytes()
        magic, journal, generation, _, predecessor_end, crc = struct.unpack_from("<8sQQQQI", data)
        if magic != SEGMENT or crc != crc32c(data[:40]):
            raise AssertionError(f"{path} has no header")
        if generation:
            segments.append((journal, generation, predecessor_end, data))
    segments.sort()
    lives: dict[tuple[int, int, int], tuple[str, str]] = {}
    ended: set[tuple[int, int, int]] = set()
    for at, (journal, generation, _, data) in enumerate(segments):
        after = segments[at + 1] if at + 1 < len(segments) else None
        end = after[2] if after and after[:2] == (journal, generation + 1) else len(data)
        scan(data, journal, generation, end, lives, ended)
    return {parcel for place, parcel in lives.items() if place not in ended}


def scan(data: bytes, journal: int, generation: int, end: int,
         lives: dict[tuple[int, int, int], tuple[str, str]], ended: set[tuple[int, int, int]]) -> None:
    def is_header(at: int, magic: bytes) -> bool:
        return (data[at:at + len(magic)] == magic and struct.unpack_from("<I", data, at + 4)[0]
                == crc32c(struct.pack("<QQQ", journal, generation, at) + data[at + 8:at + UNIT]))

    batch = BLOCK
    while batch < end and is_header(batch, BATCH):
        length, _, count = struct.unpack_from("<QQI", data, batch + 8)
        at = batch + UNIT
        for _ in range(count):
            if not is_header(at, RECORD):
                return
            kind, head_bytes, content_bytes = data[at + 8], *struct.unpack_from("<II", data, at + 12)
            place, = struct.unpack_from("<Q", data, at + 56)
            if kind == SETTLE:
                ended.add((journal, place >> 20, (place & 0xFFFFF) * UNIT))
            elif kind == PARCEL:
                gateway = data[at + UNIT:at + UNIT + head_bytes].split(b"\r\n", 1)[0]
                lives[journal, generation, at] = words(data[at + 32:at + 48]), gateway.split(b" ")[2].decode()
            at += -(-(UNIT + head_bytes + content_bytes) // UNIT) * UNIT
        batch += -(-length // BLOCK) * BLOCK
