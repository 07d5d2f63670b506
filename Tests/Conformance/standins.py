"""Stand-ins for the gateway, to prove the tests: Postfix must pass them, and a gateway broken on purpose must fail.

`broken-…` is a tiny store-and-forward server whose fault is in its name: `lose` says 250 before the message is in its
file, `change` turns one byte over, `stuff` forgets to undo dot-stuffing, `twice` hands some messages over again,
`none` has no fault. When a file can't be written `full` still says 250, `refuse` a 5xx, `stuck` refuses for ever;
`lease` forgets its mail after a pause, `spin` uses a core without descriptors.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import peers
from harness import GATEWAY_NAME, MESSAGE_SIZE_LIMIT, PRIMARY_NAME, Service, certificate, wait_until
from posternctl import Gateway, Postern


class PostfixGateway(Gateway):
    """Postfix as the gateway: relays listed domains to their primaries."""

    name = "postfix"

    class Server(peers.Postfix):
        name = "postfix-gateway"
        message_size = MESSAGE_SIZE_LIMIT

        def settings(self, etc: Path, uid: int, gid: int) -> dict[str, str]:
            table = etc / "relay"
            table.touch()
            common = {key: value for key, value in super().settings(etc, uid, gid).items() if "virtual" not in key}
            return common | {
                "myhostname": GATEWAY_NAME, "mynetworks": "", "message_size_limit": str(self.message_size),
                "relay_domains": f"texthash:{table}", "transport_maps": f"texthash:{table}",
                "minimal_backoff_time": "1s", "maximal_backoff_time": "2s", "queue_run_delay": "1s",
                "transport_retry_time": "1s", "smtp_tls_verify_cert_match": PRIMARY_NAME,
                "smtpd_tls_protocols": ">=TLSv1.2", "smtpd_tls_exclude_ciphers": "aNULL, kRSA, SHA1, SHA256, CBC3",
                "tls_preempt_cipherlist": "yes", "default_destination_concurrency_failed_cohort_limit": "0",
            }

        def master_services(self) -> str:
            return super().master_services() + ("smtptlsany unix - - n - - smtp\n"
                                                "  -o smtp_tls_security_level=encrypt\n")

    def __init__(self, folder: Path | None = None, *, message_size: int = MESSAGE_SIZE_LIMIT) -> None:
        super().__init__(folder)
        self.server = self.Server(folder=self.folder)
        self.server.message_size = message_size
        self.server.port = self.port
        self.server.tls = certificate(GATEWAY_NAME)
        self.lines: list[str] = []

    def start(self) -> None:
        self.server.start()

    def _write_table(self) -> None:
        (self.folder / "etc/relay").write_text("".join(self.lines))
        reloads = self.log_text().count(": reload ")
        self.server.signal(signal.SIGHUP)
        wait_until("Postfix's reload", lambda: self.log_text().count(": reload ") > reloads, 10)
        time.sleep(0.5)  # the processes of the old generation take their leave

    def kill(self) -> None:
        self.server.stop()

    def stop(self) -> None:
        if self.server.service is not None:
            self.server.signal(signal.SIGTERM)
            self.server.service.process.wait(30)
        self.kill()

    def create(self, domain: str, server: str | None = None, **settings: str) -> None:
        self.create_many([domain], server or "", **settings)

    def create_many(self, domains: list[str], server: str, **settings: str) -> None:
        transport = {"encrypt": "smtptlsany", "verify": "smtptls"}.get(settings.get("forward__tls", "none"), "smtp")
        host, port = server.rsplit(":", 1)
        self.lines += [f"{domain} {transport}:[{host}]:{port}\n" for domain in domains]
        self._write_table()

    def queued(self) -> int:
        return len(self.spooled())

    def spooled(self) -> set[tuple[str, str]]:
        # An executable file is a whole message; the others are what a kill left of one that was never promised.
        return {(file, "") for name in ("incoming", "active", "deferred")
                for folder, _, files in os.walk(self.folder / "queue" / name) for file in files
                if os.access(os.path.join(folder, file), os.X_OK)}

    def log_text(self) -> str:
        return self.server.log_text()


class BrokenGateway(Gateway):
    """The tiny gateway of `broken_gateway.py`, with one fault."""

    def __init__(self, fault: str, folder: Path | None = None, *, message_size: int = MESSAGE_SIZE_LIMIT) -> None:
        super().__init__(folder)
        self.name = f"broken-{fault}"
        self.fault = fault
        self.message_size = message_size
        self.service: Service | None = None
        self.log = self.folder / "broken.log"
        self.data = self.folder / "spool"
        (self.folder / "domains").touch()

    def launch(self) -> Service:
        self.data.mkdir(exist_ok=True)
        self.service = Service(
            self.name, [*self.prefix, sys.executable, str(Path(__file__).with_name("broken_gateway.py")), self.fault,
                        str(self.port), str(self.folder), str(self.message_size)], self.log, self.environment)
        return self.service

    def start(self) -> None:
        self.launch().wait_for_greeting(self.port)

    def kill(self) -> None:
        if self.service is not None:
            self.service.kill()
            self.service = None

    stop = kill

    def create(self, domain: str, server: str | None = None, **settings: str) -> None:
        self.create_many([domain], server or "", **settings)

    def create_many(self, domains: list[str], server: str, **settings: str) -> None:
        with (self.folder / "domains").open("a") as file:
            file.writelines(f"{domain} {server}\n" for domain in domains)

    def queued(self) -> int:
        return len(self.spooled())

    def spooled(self) -> set[tuple[str, str]]:
        return {(file.name.removesuffix("again"), "") for file in self.data.iterdir()
                if file.suffix != ".part"}

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")


def gateway(name: str, *, io: str = "auto", message_size: int = MESSAGE_SIZE_LIMIT,
            name_servers: list[str] | None = None) -> Gateway:
    """`postern`, `postfix`, or `broken-FAULT`. The stand-ins know addresses only, and no `io`."""
    if name == "postern":
        return Postern(io=io, message_size=message_size, name_servers=name_servers)
    if name == "postfix":
        return PostfixGateway(message_size=message_size)
    if name.startswith("broken-"):
        return BrokenGateway(name.removeprefix("broken-"), message_size=message_size)
    raise SystemExit(f"no gateway named {name}: postern, postfix, "
                     "broken-{none,lose,change,stuff,twice,full,refuse,stuck,lease,spin}")
