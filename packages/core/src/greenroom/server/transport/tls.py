"""A certificate for development, created on this machine and trusted by clients that are given its CA file."""

from __future__ import annotations

import datetime
import ipaddress
import os
import ssl
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from greenroom.errors import InvalidRequest

_LIFETIME = datetime.timedelta(days=397)  # the longest that browsers and Apple's platforms accept
_RENEW_BEFORE = datetime.timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Certificate:
    """The files of a server's certificate, in PEM."""

    certificate: Path
    key: Path
    authority: Path | None = None
    """The CA file that clients must trust, if the certificate is self-signed."""


def self_signed(directory: Path, hosts: Sequence[str]) -> Certificate:
    """Return the certificate in a directory, or a new one if it has none that is valid for these hosts.

    Its authority signs only this certificate: the authority's key is never stored, so trusting it means trusting
    nothing else.

    Raises:
        InvalidRequest: the directory cannot be written, or other users can write to it.
    """
    files = Certificate(directory / "server.pem", directory / "server.key", directory / "ca.pem")
    try:
        _make_private(directory)
        if not _is_good(files, hosts):
            _make(files, hosts)
    except OSError as error:
        raise InvalidRequest(f"The directory {str(directory)!r} cannot hold a certificate: {error}.") from error
    return files


def _make_private(directory: Path) -> None:
    """Create a directory that only this user can access, and its missing parents.

    Raises:
        InvalidRequest: it exists, and another user could put a key into it.
    """
    missing = [each for each in (directory, *directory.parents) if not os.path.lexists(each)]
    for each in reversed(missing):
        each.mkdir(mode=0o700, exist_ok=True)
    found = directory.lstat()
    wrong = ""
    if not stat.S_ISDIR(found.st_mode):
        wrong = "a link or a file"
    elif hasattr(os, "geteuid") and found.st_uid != os.geteuid():
        wrong = f"one of user {found.st_uid}"
    elif found.st_mode & 0o022:
        wrong = f"one that others can write to (mode {stat.S_IMODE(found.st_mode):o})"
    if wrong:
        raise InvalidRequest(
            f"The TLS directory {str(directory)!r} must be a directory that only this user can write to, not {wrong}."
        )


def _is_good(files: Certificate, hosts: Sequence[str]) -> bool:
    assert files.authority is not None  # noqa: S101
    if not (files.key.exists() and files.authority.exists() and files.certificate.exists()):
        return False
    if not stat.S_ISREG(files.key.lstat().st_mode) or files.key.lstat().st_mode & 0o077:
        return False  # other users may have read it
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(files.certificate, files.key)  # certificate and key fit
        certificate = x509.load_pem_x509_certificate(files.certificate.read_bytes())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ssl.SSLError, ValueError, x509.ExtensionNotFound):
        return False
    good_until = certificate.not_valid_after_utc - _RENEW_BEFORE
    return all(_name(host) in names for host in hosts) and datetime.datetime.now(datetime.UTC) < good_until


def _make(files: Certificate, hosts: Sequence[str]) -> None:
    assert files.authority is not None  # noqa: S101
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Greenroom, for development on this machine")])
    authority = (
        _builder(authority_name, authority_name, authority_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(sign_certificates=True), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    certificate = (
        _builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "greenroom")]), authority_name, key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(sign_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_name(host) for host in hosts]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    _write(files.key, private, mode=0o600)
    _write(files.certificate, certificate.public_bytes(serialization.Encoding.PEM))
    _write(files.authority, authority.public_bytes(serialization.Encoding.PEM))


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + _LIFETIME)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _write(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Replace a file atomically, with its mode set before its content is written."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.unlink(missing_ok=True)
    partial.touch(mode=mode)
    partial.write_bytes(content)
    partial.replace(path)
