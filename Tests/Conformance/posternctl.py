"""Starts, kills and asks a gateway: Postern itself, or a stand-in that proves the tests without it.

`POSTERN_BINARY` (or `POSTERN_BIN`) names the program; without it, `.build/release/postern`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import journal
from harness import (GATEWAY_NAME, MESSAGE_SIZE_LIMIT, ROOT, Service, Skip, certificate, certificate_authority,
                     free_port, scratch_folder)

BINARY = Path(os.environ.get("POSTERN_BINARY") or os.environ.get("POSTERN_BIN") or ROOT / ".build/release/postern")
SANITIZER_STATUS = 66
"""What a program built with a sanitizer ends with when it has something to report."""


class Gateway:
    """What the tests need of a store-and-forward gateway. One folder, one SMTP port, through all its restarts."""

    name = ""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or scratch_folder("gateway")
        self.port = free_port()
        self.data = self.folder / "data"
        """Where its mail lies: may be made a file system of its own before the start."""
        self.environment: dict[str, str] = {}
        self.prefix: list[str] = []
        """A command that starts it, such as `prlimit`."""

    def start(self) -> None:
        """Starts on the same port and folder as before; returns when the port greets."""
        raise NotImplementedError

    def kill(self) -> None:
        """kill -9."""
        raise NotImplementedError

    def stop(self) -> None:
        """SIGTERM, to the end."""
        raise NotImplementedError

    def create(self, domain: str, server: str | None = None, **settings: str) -> None:
        """Makes one gateway; `settings` in dotted keys with `__` for the dot."""
        raise NotImplementedError

    def create_many(self, domains: list[str], server: str, **settings: str) -> None:
        for domain in domains:
            self.create(domain, server, **settings)

    def queued(self) -> int:
        """How many messages wait."""
        raise NotImplementedError

    def spooled(self) -> set[tuple[str, str]]:
        """Queue id and domain of each message in the spool, looked at from outside; no domain: of all its domains."""
        raise NotImplementedError

    def hasten(self) -> None:
        """What waits for its next try is tried now, where the gateway can do that."""

    def complaints(self) -> list[str]:
        """What must never be found afterwards: files set aside, reports of a sanitizer."""
        return []

    def log_text(self) -> str:
        raise NotImplementedError

    def description(self) -> str:
        """What runs, for the record."""
        return f"{self.name}, a stand-in"

    def __enter__(self) -> "Gateway":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


class Postern(Gateway):
    """The gateway under test, with `postern.yaml` as the contract has it."""

    name = "postern"

    def __init__(self, folder: Path | None = None, *, io: str = "auto", reactors: int | None = None,
                 message_size: int = MESSAGE_SIZE_LIMIT, name_servers: list[str] | None = None,
                 environment: dict[str, str] | None = None, cgroup: Path | None = None,
                 listen: dict[str, list[str]] | None = None) -> None:
        if not BINARY.exists():
            raise Skip(f"{BINARY} is not built (make, or POSTERN_BIN)")
        super().__init__(folder)
        # A build with a sanitizer reports to files; one without does not look at this.
        self.reports = self.folder / "sanitizer"
        options = f"log_path={self.reports}:exitcode={SANITIZER_STATUS}:verify_asan_link_order=0:detect_leaks=0"
        self.environment |= {
            name: ":".join(filter(None, [os.environ.get(name), options])) for name in ("TSAN_OPTIONS", "ASAN_OPTIONS")
        } | (environment or {})
        self.ended: list[str] = []
        """How it ended when nobody ended it."""
        self.cgroup = cgroup
        self.service: Service | None = None
        self.killed: Service | None = None
        tls = certificate(GATEWAY_NAME)
        self.log = self.folder / "postern.log"
        self.admin_port = free_port()
        configuration: dict[str, Any] = {
            "hostname": GATEWAY_NAME,
            "data": "data",
            "io": io,
            "listen": {"smtp": [f"127.0.0.1:{self.port}"], "admin": [f"127.0.0.1:{self.admin_port}"]}
            | (listen or {}),
            "tls": {"certificates": [{"certificate": str(tls.certificate), "key": str(tls.key)}]},
            "limits": {"messageSize": message_size},
        }
        if name_servers:
            configuration["dns"] = {"servers": name_servers}
        if reactors is not None:
            configuration["reactors"] = reactors
        self.configuration = self.folder / "postern.yaml"
        self.configuration.write_text(json.dumps(configuration, indent=2))  # JSON is YAML

    def launch(self) -> Service:
        """Starts, and waits for nothing."""
        # `forward.tls: verify` asks the system's authorities: OpenSSL reads them from where SSL_CERT_FILE says.
        self.service = Service(
            self.name, [*self.prefix, str(BINARY), "serve", "--config", str(self.configuration)], self.log,
            {"SSL_CERT_FILE": str(certificate_authority()), **self.environment}, self.cgroup)
        return self.service

    def start(self) -> None:
        self.launch().wait_for_greeting(self.port)
        if self.killed is not None:
            survivors = self.killed.group()
            self.killed.kill()
            self.killed = None
            if survivors:
                raise RuntimeError(f"{len(survivors)} processes outlived the kill -9 of `postern serve`")

    def kill(self) -> None:
        """kill -9 of `serve` alone: what it started must end by itself, and set the ports free."""
        if self.service is not None:
            if self.service.running():
                os.kill(self.service.pid, signal.SIGKILL)
                self.service.process.wait()
            else:
                self.ended.append(f"it ended by itself with {self.service.process.returncode}: {self.service.tail(3)}")
            self.killed, self.service = self.service, None

    def stop(self) -> None:
        if self.service is not None:
            status = self.service.terminate()
            self.service = None
            if status != 0:
                raise RuntimeError(f"postern ended with {status} after SIGTERM")

    def __exit__(self, *_: object) -> None:
        if self.service is not None:
            self.service.kill()

    def description(self) -> str:
        status = self.command("status")
        return f"postern {status.get('version')}, io {status.get('io')}, {len(status.get('reactors', []))} reactors"

    def command(self, *arguments: str) -> Any:
        """Runs a `postern` command against the running server; returns its JSON, or raises with its sentence."""
        result = subprocess.run([str(BINARY), *arguments, "--json", "--config", str(self.configuration)],
                                stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30)
        if result.returncode != 0:
            raise RuntimeError(f"postern {' '.join(arguments)}: exit {result.returncode}: "
                               f"{result.stderr.strip() or result.stdout.strip()}")
        return json.loads(result.stdout) if result.stdout.strip() else None

    def create(self, domain: str, server: str | None = None, **settings: str) -> None:
        keys = [f"{key.replace('__', '.')}={value}" for key, value in settings.items()]
        self.command("gateway", "create", domain, *(["--server", server] if server else []), *keys)

    def create_many(self, domains: list[str], server: str, **settings: str) -> None:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda domain: self.create(domain, server, **settings), domains))

    def queued(self) -> int:
        return int(self.command("status")["queued"])

    def spooled(self) -> set[tuple[str, str]]:
        """Of a gateway that has ended: what is in mail directories and journals."""
        files = {(name.partition("-")[0], store.name) for store in self.stores() for name in os.listdir(store)
                 if name.endswith(".eml")}
        return files | {parcel for parcel in journal.spooled(self.folder / "data/journal") if parcel[1][0] != "@"}

    def stores(self) -> list[Path]:
        return [store for store in (self.folder / "data/stores").iterdir() if not store.name.startswith("@")]

    def hasten(self) -> None:
        self.command("queue", "flush", "--all")

    def leftovers(self) -> list[str]:
        """Files in mail directories other than what belongs there when nothing waits."""
        return [f"{store.name}/{name}" for store in self.stores() for name in os.listdir(store) if name != "store.head"]

    def complaints(self) -> list[str]:
        found = [*self.ended, *(f"set aside: {name}" for name in self.leftovers() if name.endswith(".damaged"))]
        for report in self.folder.glob("sanitizer.*"):
            text = report.read_text(errors="replace")
            if text.strip():
                found.append(f"{report.name}: {text[:2000]}")
        return found

    def log_text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def events(self, name: str) -> list[str]:
        """The lines of the log with this event."""
        return [line for line in self.log_text().splitlines() if f" event={name} " in line]
