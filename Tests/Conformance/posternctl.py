"""Starts, kills and asks a gateway: Postern itself, or a stand-in that proves the tests without it.

`POSTERN_BIN` names the program; without it, `.build/release/postern`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from harness import (GATEWAY_NAME, MESSAGE_SIZE_LIMIT, ROOT, Service, Skip, certificate, certificate_authority,
                     free_port, scratch_folder)

BINARY = Path(os.environ.get("POSTERN_BIN", ROOT / ".build/release/postern"))


class Gateway:
    """What the tests need of a store-and-forward gateway. One folder, one SMTP port, through all its restarts."""

    name = ""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or scratch_folder("gateway")
        self.port = free_port()

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
                 environment: dict[str, str] | None = None, cgroup: Path | None = None) -> None:
        if not BINARY.exists():
            raise Skip(f"{BINARY} is not built (make, or POSTERN_BIN)")
        super().__init__(folder)
        self.environment = environment or {}
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
            "listen": {"smtp": [f"127.0.0.1:{self.port}"], "admin": [f"127.0.0.1:{self.admin_port}"]},
            "tls": {"certificates": [{"certificate": str(tls.certificate), "key": str(tls.key)}]},
            "limits": {"messageSize": message_size},
        }
        if name_servers:
            configuration["dns"] = {"servers": name_servers}
        if reactors is not None:
            configuration["reactors"] = reactors
        self.configuration = self.folder / "postern.yaml"
        self.configuration.write_text(json.dumps(configuration, indent=2))  # JSON is YAML

    def start(self) -> None:
        # `forward.tls: verify` asks the system's authorities: OpenSSL reads them from where SSL_CERT_FILE says.
        self.service = Service(self.name, [str(BINARY), "serve", "--config", str(self.configuration)], self.log,
                               {"SSL_CERT_FILE": str(certificate_authority()), **self.environment}, self.cgroup)
        self.service.wait_for_greeting(self.port)
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

    def log_text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""
