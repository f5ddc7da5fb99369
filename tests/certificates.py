"""Certificates for TLS, made by openssl for each run."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

#: Addresses at which a server with such a certificate is reached, beside localhost.
HOSTS = ("127.0.0.1", "127.0.0.2")


def make_certificates(folder: Path) -> bool:
    """``ca.pem``, and ``server`` and ``client`` ``.pem`` and ``.key`` signed by it; False without openssl."""
    if shutil.which("openssl") is None:
        return False

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    # Python 3.13 checks by RFC 5280 (VERIFY_X509_STRICT): a CA says what its key is for, and each
    # certificate which key has signed it.
    usage = ("-addext", "keyUsage=critical,keyCertSign,cRLSign")
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=test CA", *usage)
    extensions = (
        ",".join(["subjectAltName=DNS:localhost", *(f"IP:{host}" for host in HOSTS)]),
        "authorityKeyIdentifier=keyid",
        "basicConstraints=CA:FALSE",
    )
    (folder / "extensions").write_text("\n".join(extensions))
    for name in ("server", "client"):
        openssl("req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        sign = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "extensions")
        openssl("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.pem", *sign)
    return True
