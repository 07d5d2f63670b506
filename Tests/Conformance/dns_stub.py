"""A name server for tests, in a thread: every name below `.test` has the address 127.0.0.1, nothing else exists."""

from __future__ import annotations

import socket
import struct
import threading

from harness import free_port

TYPE_A = 1
NAME_ERROR = 3


class NameServer:
    """Answers over UDP on one port of 127.0.0.1 until the program ends."""

    def __init__(self) -> None:
        self.port = free_port()
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", self.port))
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        while True:
            query, client = self.socket.recvfrom(4096)
            try:
                self.socket.sendto(answer(query), client)
            except (struct.error, IndexError):
                continue


def answer(query: bytes) -> bytes:
    """The response to one query with one question; additional records (EDNS) are left out."""
    number, flags = struct.unpack(">HH", query[:4])
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1:at + 1 + query[at]].lower())
        at += 1 + query[at]
    question = query[12:at + 5]
    kind, = struct.unpack(">H", question[-4:-2])
    known = labels[-1:] == [b"test"]
    records = b""
    if known and kind == TYPE_A:
        records = struct.pack(">HHHIH", 0xC00C, TYPE_A, 1, 60, 4) + bytes([127, 0, 0, 1])
    header = struct.pack(">HHHHHH", number, 0x8480 | flags & 0x0100 | (0 if known else NAME_ERROR), 1,
                         1 if records else 0, 0, 0)
    return header + question + records
