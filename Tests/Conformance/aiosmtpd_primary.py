"""A primary made of aiosmtpd: writes each message, its bytes as received, into a maildir.

    aiosmtpd_primary.py PORT MAILDIR CERTIFICATE KEY SIZE_LIMIT
"""

import asyncio
import os
import ssl
import sys

from aiosmtpd.smtp import SMTP


class MaildirHandler:
    def __init__(self, maildir: str) -> None:
        self.maildir = maildir
        self.count = 0

    async def handle_DATA(self, server: SMTP, session, envelope) -> str:
        self.count += 1
        name = f"{os.getpid()}.{self.count:08}"
        tls = "TLS" if session.ssl else "plaintext"
        with open(f"{self.maildir}/{name}", "wb") as file:
            file.write(f"X-Received-By: aiosmtpd over {tls}\r\nReturn-Path: <{envelope.mail_from}>\r\n".encode())
            for recipient in envelope.rcpt_tos:
                file.write(f"Delivered-To: {recipient}\r\n".encode())
            file.write(envelope.original_content)
        os.rename(f"{self.maildir}/{name}", f"{self.maildir}/new/{name}")
        return "250 2.0.0 taken"


async def main() -> None:
    port, maildir, certificate, key, size_limit = sys.argv[1:]
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    handler = MaildirHandler(maildir)
    server = await asyncio.get_running_loop().create_server(
        lambda: SMTP(handler, hostname="primary.test", tls_context=context, enable_SMTPUTF8=True,
                     data_size_limit=int(size_limit), command_call_limit=100_000),
        "127.0.0.1", int(port))
    await server.serve_forever()


asyncio.run(main())
