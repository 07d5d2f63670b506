"""A tiny store-and-forward gateway with a fault, to show that the tests see it. Plaintext SMTP only.

    broken_gateway.py FAULT PORT FOLDER MESSAGE_SIZE

    FAULT: none; lose, change, stuff, twice; full, refuse, stuck (what it does when a file can't be written);
    lease (forgets mail after a pause); spin (with no descriptors left)
"""

import asyncio
import os
import sys
import time

LOST_FOR_SECONDS = 0.5
"""How long `lose` leaves a message that it answered 250 for out of its file."""

PAUSE_SECONDS = 0.5
"""A gap above this is a pause to `lease`."""


class Gateway:
    def __init__(self, fault: str, folder: str, message_size: int) -> None:
        self.fault = fault
        self.folder = folder
        self.message_size = message_size
        self.count = 0
        self.arrived = asyncio.Event()
        self.is_stuck = False
        self.settled: set[str] = set()
        """Handed over, but the file would not go."""

    def server_of(self, domain: str) -> tuple[str, int] | None:
        with open(f"{self.folder}/domains") as file:
            for line in file:
                name, server = line.split()
                if name == domain:
                    host, port = server.rsplit(":", 1)
                    return host, int(port)
        return None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self.session(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def session(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        def reply(text: str) -> None:
            writer.write(text.encode() + b"\r\n")

        reply("220 broken.test ESMTP")
        sender, recipients = b"", []
        while line := await reader.readline():
            verb = line.strip().upper().split(b" ")[0].split(b":")[0]
            if verb == b"EHLO":
                reply(f"250-broken.test\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 SIZE {self.message_size}")
            elif verb == b"MAIL":
                size = line.upper().partition(b"SIZE=")[2].split()
                if size and int(size[0]) > self.message_size:
                    reply("552 5.3.4 too big")
                    continue
                sender, recipients = line[line.index(b"<") + 1:line.index(b">")], []
                reply("250 ok")
            elif verb == b"RCPT":
                recipient = line[line.index(b"<") + 1:line.index(b">")]
                if self.server_of(recipient.rpartition(b"@")[2].decode()) is None:
                    reply("550 5.7.1 no such gateway")
                    continue
                recipients.append(recipient)
                reply("250 ok")
            elif verb == b"DATA":
                reply("354 go")
                lines, size = [], 0
                while (text := await reader.readline()) != b".\r\n":
                    if not text:
                        return
                    if text.startswith(b".") and self.fault != "stuff":
                        text = text[1:]
                    size += len(text)
                    lines.append(text)
                if size > self.message_size:
                    reply("552 5.3.4 too big")
                    continue
                self.count += 1
                trace = f"Received: from x by broken.test id {os.getpid()}.{self.count}\r\n".encode()
                content = sender + b"\n" + b" ".join(recipients) + b"\n" + trace + b"".join(lines)
                name = f"{self.folder}/spool/{os.getpid()}.{self.count}"
                if self.fault == "lose":
                    asyncio.get_running_loop().call_later(LOST_FOR_SECONDS, self.store, name, content)
                elif refusal := self.refusal(name, content):
                    reply(refusal)
                    continue
                reply(f"250 2.0.0 {os.getpid()}.{self.count}")
            elif verb == b"QUIT":
                reply("221 bye")
                await writer.drain()
                return
            elif verb in (b"RSET", b"NOOP", b"HELO"):
                reply("250 ok")
            else:
                reply("500 what")
            await writer.drain()

    def refusal(self, name: str, content: bytes) -> str | None:
        """Stores the message; what the sender is told if that fails."""
        try:
            if self.is_stuck:
                raise OSError
            self.store(name, content)
        except OSError:
            self.is_stuck = self.fault == "stuck"
            if os.path.exists(name + ".part"):
                os.unlink(name + ".part")
            if self.fault == "full":
                return None
            return "552 5.3.4 no room" if self.fault == "refuse" else "452 4.3.1 no room"
        return None

    def store(self, name: str, content: bytes) -> None:
        with open(name + ".part", "wb") as file:
            file.write(content)
        os.rename(name + ".part", name)
        self.arrived.set()

    async def watch(self) -> None:
        """`lease`: takes a pause of the process for the end of what it holds."""
        while self.fault == "lease":
            before = time.monotonic()
            await asyncio.sleep(PAUSE_SECONDS / 10)
            if time.monotonic() - before > PAUSE_SECONDS:
                for name in os.listdir(f"{self.folder}/spool"):
                    os.unlink(f"{self.folder}/spool/{name}")

    async def forward(self) -> None:
        while True:
            try:
                await self.forward_all()
            except OSError:  # no descriptors
                await asyncio.sleep(0.2)

    async def forward_all(self) -> None:
        while True:
            names = [name for name in os.listdir(f"{self.folder}/spool") if not name.endswith(".part")]
            if not names:
                self.arrived.clear()
                try:
                    await asyncio.wait_for(self.arrived.wait(), 0.5)
                except TimeoutError:
                    pass
                continue
            for start in range(0, len(names), 20):
                outcomes = await asyncio.gather(*(self.hand_over(name) for name in names[start:start + 20]))
                if not any(outcomes):
                    await asyncio.sleep(0.5)

    async def hand_over(self, name: str) -> bool:
        path = f"{self.folder}/spool/{name}"
        try:
            with open(path, "rb") as file:
                sender, recipients, content = file.read().split(b"\n", 2)
            if name in self.settled:
                os.unlink(path)
                return True
        except OSError:
            return False
        if self.fault == "change":
            content = content[:-3] + bytes([content[-3] ^ 1]) + content[-2:]
        server = self.server_of(recipients.split(b"@")[-1].decode())
        try:
            reader, writer = await asyncio.open_connection(*server)
            await reader.readline()
            writer.write(b"EHLO broken.test\r\n")
            offers = b""
            while (line := await reader.readline())[3:4] == b"-":
                offers += line
            option = b" SMTPUTF8" if b"SMTPUTF8" in offers + line else b""
            for command in (b"MAIL FROM:<" + sender + b">" + option,
                            *(b"RCPT TO:<" + recipient + b">" for recipient in recipients.split(b" ")), b"DATA"):
                writer.write(command + b"\r\n")
                if (line := await reader.readline())[:1] not in (b"2", b"3"):
                    raise ConnectionError(line)
            writer.write(content.replace(b"\n.", b"\n..") + b".\r\n")
            if (await reader.readline())[:1] != b"2":
                raise ConnectionError
            if self.fault != "twice" or not name.endswith("7"):
                self.settled.add(name)
                os.unlink(path)
            else:
                os.rename(path, path + "again")
            writer.write(b"QUIT\r\n")
            await reader.readline()
            writer.close()
            return True
        except OSError:
            return False


async def main() -> None:
    fault, port, folder, message_size = sys.argv[1:]
    gateway = Gateway(fault, folder, int(message_size))
    server = await asyncio.start_server(gateway.serve, "127.0.0.1", int(port), backlog=1000, limit=1 << 20)
    if fault == "spin":
        asyncio.get_running_loop().set_exception_handler(spin)
    forwarder = asyncio.create_task(gateway.forward())
    watcher = asyncio.create_task(gateway.watch())
    async with server:
        await asyncio.gather(forwarder, watcher)


def spin(_: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
    """Tries again at once what failed for want of descriptors."""
    began = time.monotonic()
    while time.monotonic() - began < 2:
        pass


asyncio.run(main())
