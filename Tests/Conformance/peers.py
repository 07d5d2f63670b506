"""Other people's mail servers: installs them without touching the system, and starts each as sender or as primary.

    python3 peers.py            installs all and shows that each takes a message and hands one on

Debian's packages of Postfix, Exim and OpenSMTPD conflict, so they are unpacked, never installed: each server runs in a
mount namespace of its own in which its files lie over /usr and its configuration over /etc. That needs root; without,
these peers are skipped with the reason.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import smtplib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness import (CACHE, GATEWAY_NAME, MESSAGE_SIZE_LIMIT, PRIMARY_NAME, Service, Skip, certificate,
                     certificate_authority, digest, exit_cleanly_on_signals, free_port, header_section,
                     identifier, run, scratch_folder, to_crlf, wait_until)

# Installation: everything that comes from outside comes through these two.


def unpack_debian(name: str, *packages: str) -> Path:
    """Downloads Debian packages with the libraries this machine lacks and unpacks them into `.build-peers/<name>`.

    Nothing is installed: no maintainer script runs, no service starts, the system's own files stay as they are.
    """
    target = CACHE / name
    stamp = target / ".complete"
    if stamp.exists():
        return target
    if shutil.which("apt-get") is None:
        raise Skip(f"{name} comes as a Debian package, and this machine has no apt-get")
    print(f"downloading {', '.join(packages)} from Debian into {target} (unpacked there, not installed)",
          file=sys.stderr)

    def plan() -> list[str]:
        lines = run("apt-get", "install", "--simulate", "--no-install-recommends", *packages).splitlines()
        missing = [line.split()[1] for line in lines if line.startswith("Inst ")]
        return sorted({*missing, *packages})

    downloads = CACHE / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    try:
        try:
            run("apt-get", "download", *plan(), cwd=downloads, timeout=600)
        except RuntimeError:
            run("apt-get", "update", timeout=600)
            run("apt-get", "download", *plan(), cwd=downloads, timeout=600)
    except RuntimeError as failure:
        raise Skip(f"{name} can't be downloaded: {str(failure).strip().splitlines()[-1]}") from None
    shutil.rmtree(target, ignore_errors=True)
    for package in plan():
        archive = max(downloads.glob(f"{package}_*.deb"), key=lambda path: path.stat().st_mtime)
        run("dpkg", "--extract", archive, target)
    target.chmod(0o755)
    stamp.touch()
    return target


def python_with(*packages: str) -> Path:
    """The Python of a virtual environment in `.build-peers/venv` that has these packages from PyPI."""
    python = CACHE / "venv/bin/python"
    stamps = [CACHE / "venv" / f".{package}" for package in packages]
    if not all(stamp.exists() for stamp in stamps):
        print(f"installing {', '.join(packages)} from PyPI into {CACHE / 'venv'}", file=sys.stderr)
        try:
            if not python.exists():
                run(sys.executable, "-m", "venv", CACHE / "venv")
            run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages, timeout=600)
        except RuntimeError as failure:
            raise Skip(f"{', '.join(packages)} can't be installed: {str(failure).strip().splitlines()[-1]}") from None
        for stamp in stamps:
            stamp.touch()
    return python


def need_user(name: str, group: str | None = None) -> None:
    """Makes the system user (or, with `group`, only that group) that a server's program insists on."""
    if os.geteuid() != 0:
        raise Skip("the peers' servers change users and mount folders of their own: that needs root")
    if group is not None:
        if subprocess.run(["getent", "group", group], stdout=subprocess.DEVNULL).returncode != 0:
            print(f"making the system group {group}", file=sys.stderr)
            run("groupadd", "--system", group)
        return
    try:
        pwd.getpwnam(name)
    except KeyError:
        print(f"making the system user {name}", file=sys.stderr)
        run("useradd", "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent",
            "--shell", "/usr/sbin/nologin", name)


# What arrived

@dataclass(frozen=True)
class Arrival:
    """One message in a primary's store."""

    test_id: str
    sha256: str
    head: str
    """Everything above `X-Test-Id`: the trace fields, and what the store says of the envelope."""
    path: Path

    def whole(self) -> bytes:
        """The message with CRLF, below what the store itself put on top."""
        return to_crlf(self.path.read_bytes())


class Store:
    """A maildir that a primary fills."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._seen: set[str] = set()

    def arrivals(self) -> Iterator[Arrival]:
        """The messages that came since the last call."""
        new = self.folder / "new"
        if not new.exists():
            return
        for entry in sorted(os.scandir(new), key=lambda entry: entry.name):
            if entry.name in self._seen:
                continue
            self._seen.add(entry.name)
            content = to_crlf(Path(entry.path).read_bytes())
            head = content[:max(content.find(b"X-Test-Id:"), 0)].decode(errors="replace")
            yield Arrival(identifier(content), digest(content), head, Path(entry.path))


# The servers

@dataclass
class Route:
    """Where a sender hands the mail for one pattern of domains: `.tls.test` stands for everything below it."""

    suffix: str
    port: int
    tls: bool
    name: str = GATEWAY_NAME
    """Who the certificate must be for."""


class Server:
    """A peer's mail server on one port of 127.0.0.1, either a primary (with a store) or a sender (with routes)."""

    name = ""
    supports_utf8 = True
    takes_tls = True
    offers_chunking = False

    def __init__(self, *, routes: list[Route] | None = None, folder: Path | None = None) -> None:
        self.routes = routes or []
        self.folder = folder or scratch_folder(self.name)
        self.port = free_port()
        self.mail = self.folder / "maildir"
        self.mail.mkdir(exist_ok=True)
        self.store = Store(self.mail)
        self.log = self.folder / "server.log"
        self.service: Service | None = None
        self.tls = certificate(PRIMARY_NAME)
        self.authority = certificate_authority()

    def start(self) -> "Server":
        raise NotImplementedError

    def stop(self) -> None:
        if self.service is not None:
            self.service.kill()
            self.service = None

    def submit(self, content: bytes, sender: str, recipient: str) -> None:
        """Gives a message to this server, which hands it on by its routes."""
        with smtplib.SMTP("127.0.0.1", self.port, timeout=120) as client:
            client.ehlo("submit.test")
            options = ["BODY=8BITMIME"]
            if not (sender + recipient).isascii():
                options.append("SMTPUTF8")
                client.command_encoding = "utf-8"
            client.sendmail(sender, [recipient], content, mail_options=options)

    def log_text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    # In a namespace of its own

    def run_in_namespace(self, root: Path, mounts: str, *command: str, cgroup: Path | None = None) -> Service:
        """Starts a command with the peer's `usr` over /usr, after the shell lines `mounts`; $HERE is our folder.

        The command is process 1 of its own namespace, so that nothing of it survives it.
        """
        script = ("set -e\n"
                  'mount -t overlay overlay -o "lowerdir=$ROOT/usr:/usr" /usr\n'
                  f"{mounts}\n"
                  'exec "$@"\n')
        return Service(self.name,
                       ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child",
                        "--mount-proc", "sh", "-c", script, "sh", *command],
                       self.folder / "process.log",
                       environment={"ROOT": str(root), "HERE": str(self.folder), "LC_ALL": "C.UTF-8"}, cgroup=cgroup,
                       in_namespace=True)

    def inside(self, *command: str, timeout: float = 120) -> str:
        """Runs one of the server's own tools in its namespace."""
        return run("nsenter", "--target", str(self.first_process()), "--mount", "--pid", *command, timeout=timeout)

    def first_process(self) -> int:
        """The outer id of the namespace's process 1."""
        assert self.service is not None
        return self.service.children()[0]

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.first_process(), number)


class Postfix(Server):
    name = "postfix"
    offers_chunking = True

    processes = 60

    @staticmethod
    def install() -> Path:
        need_user("postfix")
        need_user("", group="postdrop")
        return unpack_debian("postfix", "postfix")

    def start(self, cgroup: Path | None = None) -> "Postfix":
        root = self.install()
        self.configure()
        self.service = self.run_in_namespace(root, ":", "/usr/lib/postfix/sbin/master", "-c",
                                             str(self.folder / "etc"), cgroup=cgroup)
        self.service.wait_for_greeting(self.port)
        return self

    def configure(self) -> None:
        etc, queue, data = (self.folder / name for name in ("etc", "queue", "data"))
        for folder in (etc, queue, data):
            folder.mkdir(exist_ok=True)
        for name in ("active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "private",
                     "maildrop", "public", "pid", "saved", "trace"):
            (queue / name).mkdir(exist_ok=True)
            if name != "pid":
                shutil.chown(queue / name, "postfix", "postdrop" if name in ("maildrop", "public") else None)
        (queue / "maildrop").chmod(0o1730)
        (queue / "public").chmod(0o710)
        shutil.chown(data, "postfix")
        shutil.chown(self.mail, "nobody", "nogroup")
        nobody = pwd.getpwnam("nobody")
        (etc / "transport").write_text("".join(
            f"/{re.escape(route.suffix)}$/ {'smtptls' if route.tls else 'smtp'}:[127.0.0.1]:{route.port}\n"
            for route in self.routes))
        (etc / "domains").write_text("/./ OK\n")
        settings = self.settings(etc, nobody.pw_uid, nobody.pw_gid)
        (etc / "main.cf").write_text("".join(f"{key} = {value}\n" for key, value in settings.items()))
        (etc / "master.cf").write_text(self.master_services())

    def settings(self, etc: Path, uid: int, gid: int) -> dict[str, str]:
        """main.cf. Each key once: a warning per process at start can fill the log socket before postlogd reads it."""
        role = {
            "transport_maps": f"regexp:{etc}/transport", "mynetworks": "127.0.0.0/8",
            "smtp_tls_verify_cert_match": " ".join({route.name for route in self.routes}),
        } if self.routes else {
            "virtual_mailbox_domains": f"regexp:{etc}/domains", "virtual_mailbox_base": str(self.folder),
            "virtual_mailbox_maps": "static:maildir/", "virtual_mailbox_limit": "0",
            "virtual_uid_maps": f"static:{uid}", "virtual_gid_maps": f"static:{gid}",
        }
        return {
            "compatibility_level": "3.6", "mail_owner": "postfix",
            "queue_directory": f"{self.folder}/queue", "data_directory": f"{self.folder}/data",
            "command_directory": "/usr/sbin", "daemon_directory": "/usr/lib/postfix/sbin",
            "shlib_directory": "/usr/lib/postfix", "meta_directory": str(etc),
            "maillog_file_prefixes": "/", "maillog_file": str(self.log),
            "myhostname": "postfix.sender.test" if self.routes else PRIMARY_NAME,
            "mydestination": "", "local_transport": "error:no local mail", "alias_maps": "", "biff": "no",
            "inet_interfaces": "127.0.0.1", "inet_protocols": "ipv4",
            "smtpd_relay_restrictions": "permit_mynetworks, reject_unauth_destination",
            "smtpd_peername_lookup": "no", "disable_dns_lookups": "yes", "in_flow_delay": "0",
            "message_size_limit": str(2 * MESSAGE_SIZE_LIMIT), "smtputf8_enable": "yes",
            "default_process_limit": str(self.processes),
            "smtpd_client_connection_count_limit": "0", "smtpd_client_connection_rate_limit": "0",
            "smtpd_client_event_limit_exceptions": "static:all",
            "smtpd_tls_cert_file": str(self.tls.certificate), "smtpd_tls_key_file": str(self.tls.key),
            "smtpd_tls_security_level": "may", "smtpd_tls_received_header": "yes",
            "smtp_tls_CAfile": str(self.authority),
            "minimal_backoff_time": "5s", "queue_run_delay": "5s", **role,
        }

    def master_services(self) -> str:
        return (f"127.0.0.1:{self.port} inet n - n - - smtpd\n"
                "pickup unix n - n 60 1 pickup\ncleanup unix n - n - 0 cleanup\nqmgr unix n - n 300 1 qmgr\n"
                "tlsmgr unix - - n 1000? 1 tlsmgr\nrewrite unix - - n - - trivial-rewrite\n"
                "bounce unix - - n - 0 bounce\ndefer unix - - n - 0 bounce\ntrace unix - - n - 0 bounce\n"
                "verify unix - - n - 1 verify\nflush unix n - n 1000? 0 flush\nproxymap unix - - n - - proxymap\n"
                "smtp unix - - n - - smtp\n"
                "smtptls unix - - n - - smtp\n  -o smtp_tls_security_level=verify\n"
                "relay unix - - n - - smtp\nshowq unix n - n - - showq\nerror unix - - n - - error\n"
                "retry unix - - n - - error\ndiscard unix - - n - - discard\n"
                "virtual unix - n n - - virtual\nanvil unix - - n - 1 anvil\nscache unix - - n - 1 scache\n"
                "postlog unix-dgram n - n - 1 postlogd\n")

    def chunked_arrivals(self) -> int:
        """How many messages this server took by BDAT."""
        return sum(1 for line in self.log_text().splitlines() if "disconnect from" in line and " bdat=" in line)


class Exim(Server):
    name = "exim"
    offers_chunking = True

    extra_main = ""

    @staticmethod
    def install() -> Path:
        need_user("Debian-exim")
        return unpack_debian("exim", "exim4-daemon-heavy")

    def start(self, cgroup: Path | None = None) -> "Exim":
        root = self.install()
        self.configure()
        # Exim trusts a configuration only where it was compiled to look for it.
        self.service = self.run_in_namespace(
            root, 'mount -t overlay overlay -o "lowerdir=$HERE/etc:/etc" /etc', *self.command(), cgroup=cgroup)
        self.service.wait_for_greeting(self.port)
        return self

    def command(self) -> list[str]:
        return ["/usr/sbin/exim4", "-bdf", "-q5s"]

    def configure(self) -> None:
        etc = self.folder / "etc/exim4"
        etc.mkdir(parents=True, exist_ok=True)
        spool, logs = self.folder / "spool", self.folder / "log"
        for folder in (spool, logs, self.mail):
            folder.mkdir(exist_ok=True)
            shutil.chown(folder, "Debian-exim", "Debian-exim")
        key = etc / "exim.key"
        shutil.copy(self.tls.key, key)
        shutil.chown(key, "Debian-exim", "Debian-exim")
        routers, transports = "", ""
        for number, route in enumerate(self.routes):
            routers += (f"route{number}:\n  driver = manualroute\n  domains = *{route.suffix}\n"
                        f"  transport = out{number}\n  route_list = * 127.0.0.1::{route.port} byname\n"
                        "  self = send\n  no_more\n")
            transports += (f"out{number}:\n  driver = smtp\n  allow_localhost\n  hosts_try_chunking = *\n"
                           "  message_linelength_limit = 100000\n" + (
                               f"  hosts_require_tls = *\n  tls_verify_certificates = {self.authority}\n"
                               f"  tls_verify_hosts = *\n  tls_sni = {route.name}\n"
                               "  tls_verify_cert_hostnames =\n" if route.tls else "  hosts_avoid_tls = *\n"))
        if not self.routes:
            routers = "inbox:\n  driver = accept\n  transport = maildir\n"
            transports = (f"maildir:\n  driver = appendfile\n  directory = {self.mail}\n  maildir_format\n"
                          "  envelope_to_add\n  return_path_add\n  user = Debian-exim\n  group = Debian-exim\n"
                          "  mode = 0644\n  no_mode_fail_narrower\n  directory_mode = 0755\n")
        (etc / "exim4.conf").write_text(
            f"primary_hostname = {PRIMARY_NAME if not self.routes else 'exim.sender.test'}\n"
            f"spool_directory = {spool}\nlog_file_path = {logs}/%slog\n"
            "pid_file_path =\n"
            f"daemon_smtp_ports = {self.port}\nlocal_interfaces = 127.0.0.1\n"
            "acl_smtp_rcpt = accept_all\nacl_smtp_data = accept_all\n"
            "host_lookup =\nrfc1413_query_timeout = 0s\ndisable_ipv6\n"
            "smtp_accept_max = 1200\nsmtp_accept_queue_per_connection = 0\nsmtp_accept_queue = 0\n"
            "smtp_enforce_sync = false\nsplit_spool_directory\nqueue_run_max = 8\n"
            "chunking_advertise_hosts = *\nsmtputf8_advertise_hosts = *\naccept_8bitmime\n"
            "pipelining_advertise_hosts = *\nprdr_enable = false\n"
            f"message_size_limit = {2 * MESSAGE_SIZE_LIMIT}\n"
            f"tls_advertise_hosts = *\ntls_certificate = {self.tls.certificate}\ntls_privatekey = {key}\n"
            "log_selector = +received_sender +received_recipients +tls_cipher\nkeep_environment =\n"
            + self.extra_main +
            "begin acl\naccept_all:\n  accept\n"
            f"begin routers\n{routers}begin transports\n{transports}"
            "begin retry\n* * F,2h,5s\n")

    def log_text(self) -> str:
        log = self.folder / "log/mainlog"
        return log.read_text(errors="replace") if log.exists() else ""

    def chunked_arrivals(self) -> int:
        return sum(1 for line in self.log_text().splitlines() if " <= " in line and " K " in line)

    def chunked_departures(self) -> int:
        """How many messages this server handed on by BDAT."""
        return sum(1 for line in self.log_text().splitlines() if " => " in line and " K " in line)


class OpenSMTPD(Server):
    name = "opensmtpd"
    supports_utf8 = False
    takes_tls = False
    """Debian 12's 6.8.0p2 fails every handshake as a server with OpenSSL 3 (OpenSMTPD issues 1171 and 1239)."""

    extra_main = ""

    @staticmethod
    def install() -> Path:
        need_user("opensmtpd")
        need_user("opensmtpq")
        root = unpack_debian("opensmtpd", "opensmtpd")
        control = root / "usr/sbin/smtpctl"  # insists on what the package's script would have set
        shutil.chown(control, group="opensmtpq")
        control.chmod(0o2755)
        return root

    def start(self, cgroup: Path | None = None) -> "OpenSMTPD":
        root = self.install()
        self.configure()
        # Spool, socket and chroot have fixed places.
        self.service = self.run_in_namespace(
            root,
            'mount -t tmpfs tmpfs /var/lib\nmkdir -p /var/lib/opensmtpd/empty\n'
            'mount -t tmpfs tmpfs /run\n'
            'mount -t tmpfs tmpfs /var/spool\nmkdir -p /var/spool/smtpd\n'
            'mount --bind "$HERE/spool" /var/spool/smtpd',
            "/usr/sbin/smtpd", "-d", "-f", str(self.folder / "smtpd.conf"), cgroup=cgroup)
        self.service.wait_for_greeting(self.port)
        return self

    def configure(self) -> None:
        spool = self.folder / "spool"
        spool.mkdir(exist_ok=True)
        spool.chmod(0o711)
        shutil.chown(self.mail, "nobody", "nogroup")
        actions = ""
        for number, route in enumerate(self.routes):
            scheme, check = ("smtp+tls", " tls no-verify") if route.tls else ("smtp+notls", "")
            actions += (f'action "out{number}" relay host "{scheme}://127.0.0.1:{route.port}"{check}\n'
                        f'match from any for domain "*{route.suffix}" action "out{number}"\n')
        if not self.routes:
            actions = (f'action "in" maildir "{self.mail}" virtual {{ "@" = "nobody" }}\n'
                       'match from any for any action "in"\n')
        (self.folder / "smtpd.conf").write_text(
            f'smtp max-message-size "{2 * MESSAGE_SIZE_LIMIT}"\n{self.extra_main}'
            f"listen on 127.0.0.1 port {self.port} hostname {PRIMARY_NAME}\n{actions}")

    def log_text(self) -> str:
        assert self.service is not None
        return self.service.log.read_text(errors="replace")


class Aiosmtpd(Server):
    name = "aiosmtpd"

    def start(self) -> "Aiosmtpd":
        python = python_with("aiosmtpd")
        (self.mail / "new").mkdir(exist_ok=True)
        self.service = Service(
            self.name, [str(python), str(Path(__file__).with_name("aiosmtpd_primary.py")), str(self.port),
                        str(self.mail), str(self.tls.certificate), str(self.tls.key), str(2 * MESSAGE_SIZE_LIMIT)],
            self.log)
        self.service.wait_for_greeting(self.port)
        return self


SENDING_SERVERS: list[type[Server]] = [Postfix, Exim, OpenSMTPD]
PRIMARIES: list[type[Server]] = [Postfix, Exim, OpenSMTPD, Aiosmtpd]


# Programs that hand one message in and end

def send_with_smtplib(port: int, content: bytes, sender: str, recipient: str, tls: bool) -> None:
    """One message through Python's smtplib, with STARTTLS verified against the test CA if `tls`."""
    import ssl

    with smtplib.SMTP("127.0.0.1", port, local_hostname="smtplib.sender.test", timeout=120) as client:
        client.ehlo()
        if tls:
            client.starttls(context=ssl.create_default_context(cafile=str(certificate_authority())))
            client.ehlo()
        options = ["BODY=8BITMIME"]
        if not (sender + recipient).isascii():
            options.append("SMTPUTF8")
            client.command_encoding = "utf-8"
        client.sendmail(sender, [recipient], content, mail_options=options)


def send_with_swaks(port: int, content: bytes, sender: str, recipient: str, tls: bool) -> None:
    """One message through swaks; stuffed here, because swaks takes a last line of one dot for the end."""
    program = shutil.which("swaks")
    root = None if program else unpack_debian("swaks", "swaks")
    folder = scratch_folder("swaks")
    try:
        (folder / "message").write_bytes(content.replace(b"\r\n.", b"\r\n..") + b".\r\n")
        run(program or root / "usr/bin/swaks", "--server", f"127.0.0.1:{port}", "--from", sender, "--to", recipient,
            "--data", f"@{folder / 'message'}", "--no-data-fixup", "--helo", "swaks.sender.test", "--suppress-data",
            *(["--tls", "--tls-verify", "--tls-ca-path", certificate_authority(), "--tls-sni", GATEWAY_NAME]
              if tls else []))
    finally:
        shutil.rmtree(folder)


def main() -> int:
    """Installs all peers; each as a sender hands a message, in plaintext and over TLS, to each as primary."""
    exit_cleanly_on_signals()
    failures = 0
    primaries: list[Server] = []
    for kind in PRIMARIES:
        try:
            primaries.append(kind().start())
        except Skip as reason:
            print(f"{kind.name:10} skipped: {reason}")
    for primary in primaries:
        for kind in SENDING_SERVERS:
            try:
                sender = kind(routes=[Route(".plain.test", primary.port, False),
                                      Route(".tls.test", primary.port, True, PRIMARY_NAME)]).start()
            except Skip:
                continue
            expected = {}
            for mode in ("plain", "tls") if primary.takes_tls else ("plain",):
                recipient = f"user@{primary.name}.{mode}.test"
                test_id = f"{kind.name}-{primary.name}-{mode}"
                content = header_section(test_id, "from@sender.test", recipient) + b"hello\r\n.\r\n..x\r\n"
                expected[test_id] = digest(content)
                sender.submit(content, "from@sender.test", recipient)
            arrived: dict[str, str] = {}

            def complete() -> bool:
                arrived.update({arrival.test_id: arrival.sha256 for arrival in primary.store.arrivals()})
                return arrived.keys() >= expected.keys()

            try:
                wait_until("delivery", complete, 15)
            except TimeoutError:
                print(sender.log_text()[-1500:], primary.log_text()[-1500:])
            for test_id, sha256 in expected.items():
                result = ("missing" if test_id not in arrived else "ok" if arrived[test_id] == sha256 else "changed")
                failures += result != "ok"
                print(f"{test_id:32} {result}")
            if isinstance(sender, Exim) and isinstance(primary, (Postfix, Exim)):
                print(f"  by BDAT: {sender.chunked_departures()} of 2 handed on, {primary.chunked_arrivals()} taken")
            sender.stop()
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
