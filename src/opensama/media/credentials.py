"""Content Credentials (C2PA): signed statements of what was done to a file, by whom, from which parent.

    identity = own_identity()                       # or read_identity(certificates, key)
    write_video(edited, path, credentials=identity)
    credentials_of(path)                            # what a file's credentials say, and whether they hold

The only door to c2pa-python and cryptography, the extra `credentials`. Nothing here asks the network: neither for a
timestamp nor for manifests that a file names.
"""

from __future__ import annotations

import datetime
import io
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opensama.runtime import install_line
from opensama.values import EditRecord, UserError

if TYPE_CHECKING:
    from c2pa import Builder, Signer
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

MIMES = {
    ".mp4": "video/mp4", ".m4v": "video/mp4", ".mov": "video/quicktime", ".avi": "video/avi", ".png": "image/png",
    ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp",
}  # fmt: skip
"""Files that hold their credentials themselves; others have them in a file beside them."""
_BYTES = "application/octet-stream"
_COMPOSITE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
_QUIET = {"remote_manifest_fetch": False, "ocsp_fetch": False}
_DAYS = 3650


@dataclass(frozen=True)
class SigningIdentity:
    """Certificates, the signer's own first, and its private key: PEM."""

    certificates: bytes
    key: bytes = field(repr=False)
    algorithm: str

    def signer(self) -> Signer:
        from c2pa import C2paSignerInfo, Signer

        return Signer.from_info(C2paSignerInfo(self.algorithm.encode(), self.certificates, self.key, None))


def check_installed() -> None:
    """UserError where the extra is missing."""
    from importlib.util import find_spec

    if missing := [name for name in ("c2pa", "cryptography") if find_spec(name) is None]:
        raise UserError(f"Content Credentials need {' and '.join(missing)}; run: {install_line('credentials')}")


# --- who signs


def own_folder() -> Path:
    """Where this person's own certificates and key lie."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "opensama" / "credentials"


def own_identity(notice: Callable[[str], object] = print) -> SigningIdentity:
    """This person's own certificate under a root of its own, made on first use, which `notice` hears.

    Nobody else knows that root: to others the signature is valid and the signer unknown. UserError where the extra is
    missing or nothing can be written there.
    """
    check_installed()
    folder = own_folder()
    if not folder.is_dir():
        try:
            _make(folder)
        except OSError as error:
            raise UserError(
                f"No certificate can be made in {folder} ({error.strerror}); give `certificate`."
            ) from error
        notice(f"Made a certificate to sign with, in {folder}; others will see it as valid, of an unknown signer.")
    return read_identity(folder / "chain.pem", folder / "key.pem")


def read_identity(certificates: Path, key: Path) -> SigningIdentity:
    """Certificates, the signer's first, and its key. UserError for files that do not go together, or that C2PA refuses:
    a root that signs files itself among them."""
    check_installed()
    from c2pa import C2paError
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    chain, secret = _read(certificates), _read(key)
    try:
        first = x509.load_pem_x509_certificates(chain)[0]
        private = serialization.load_pem_private_key(secret, None)
    except (ValueError, TypeError, IndexError):
        raise UserError(f"{certificates} and {key} are no certificates and no open private key in PEM.") from None
    if first.public_key() != private.public_key():
        raise UserError(f"The key {key} is not that of the first certificate in {certificates}.")
    identity = SigningIdentity(chain, secret, _algorithm(private))
    try:
        _try(identity)
    except C2paError as error:
        raise UserError(f"C2PA does not take the certificates in {certificates} ({error}).") from error
    return identity


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); check the name and the permissions.") from error


def _algorithm(key: PrivateKeyTypes) -> str:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "ed25519"
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return {256: "es256", 384: "es384"}.get(key.curve.key_size, "es512")
    return "ps256"


def _try(identity: SigningIdentity) -> None:
    """Signs a picture of one pixel."""
    from PIL import Image

    pixel = io.BytesIO()
    Image.new("RGB", (1, 1)).save(pixel, "PNG")
    pixel.seek(0)
    with _builder({}, []) as builder, identity.signer() as signer:
        _created(builder)
        builder.sign(signer, "image/png", pixel, io.BytesIO())


def _make(folder: Path) -> None:
    """A root that signs one certificate and is then without a key, so that nothing more can be made under it."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    root_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root = _certificate("OpenSAMA root of one person", root_key, "OpenSAMA root of one person", root_key, ca=True)
    leaf = _certificate("OpenSAMA edits of one person", key, "OpenSAMA root of one person", root_key, ca=False)
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".credentials.") as scratch:
        new = Path(scratch) / "new"
        new.mkdir(mode=0o700)
        for name, data in (("root.pem", root), ("chain.pem", leaf + root), ("key.pem", secret)):
            with open(os.open(new / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(data)
        try:
            os.rename(new, folder)
        except OSError:  # another process was quicker
            if not folder.is_dir():
                raise


def _certificate(
    name: str, key: EllipticCurvePrivateKey, issuer: str, issuer_key: EllipticCurvePrivateKey, *, ca: bool
) -> bytes:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    def named(text: str) -> x509.Name:
        pairs = ((NameOID.ORGANIZATION_NAME, "OpenSAMA"), (NameOID.COMMON_NAME, text))
        return x509.Name([x509.NameAttribute(oid, value) for oid, value in pairs])

    now, public = datetime.datetime.now(datetime.UTC), key.public_key()
    uses = dict.fromkeys(
        (
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(named(issuer))
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=_DAYS))
        .add_extension(x509.BasicConstraints(ca, None), True)
        .add_extension(x509.KeyUsage(digital_signature=not ca, key_cert_sign=ca, crl_sign=ca, **uses), True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), False)
    )
    if not ca:
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), False)
    return builder.sign(issuer_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


# --- signing


def side_file(path: Path) -> Path | None:
    """Where the credentials of a file go that cannot hold them itself; None for one that can."""
    return None if path.suffix.lower() in MIMES else path.with_name(f"{path.name}.c2pa")


def sign(
    file: Path, path: Path, identity: SigningIdentity, parent: Path | None, record: EditRecord | None
) -> bytes | None:
    """Signs a whole file that will be called `path`; what belongs into its side file comes out, if it has one.

    `parent` is what was edited, whose own credentials are kept; without one, such as for frames in memory, the file
    counts as newly made. `record` is what is told of the edit. UserError where C2PA cannot do it.
    """
    mime = MIMES.get(path.suffix.lower())
    agent = {"name": "OpenSAMA"} | ({} if record is None else {"version": str(record["opensama"])})
    edited: dict[str, object] = {
        "action": "c2pa.edited", "digitalSourceType": _COMPOSITE,
        "softwareAgent": agent,
    }  # fmt: skip
    if record is not None:
        edited["parameters"] = {"com.opensama.edit": record}
    with (
        _c2pa_errors(path),
        _builder({"title": path.name, "claim_generator_info": [agent]}, [edited]) as builder,
        identity.signer() as signer,
    ):
        if parent is not None and parent.is_file():
            from c2pa import C2paBuilderIntent

            builder.set_intent(C2paBuilderIntent.EDIT)
            title = {"title": parent.name} if record is not None else {}
            _add_parent(builder, {**title, "relationship": "parentOf"}, parent)
        else:  # or the library takes the file itself as its own parent
            _created(builder)
        if mime is None:
            builder.set_no_embed()
            with file.open("rb") as source:
                return bytes(builder.sign(signer, _BYTES, source, io.BytesIO()))
        signed = file.with_name(f"{file.name}.part")
        try:
            with file.open("rb") as source, signed.open("w+b") as target:
                builder.sign(signer, mime, source, target)
            os.replace(signed, file)
        finally:
            signed.unlink(missing_ok=True)
    return None


@contextmanager
def _c2pa_errors(path: Path) -> Iterator[None]:
    from c2pa import C2paError

    try:
        yield
    except C2paError as error:
        raise UserError(f"{path} could not be signed ({error}); leave `credentials=True` out.") from error


def _add_parent(builder: Builder, said: dict[str, str], parent: Path) -> None:
    """By its bytes alone where C2PA cannot read it, though we can: a MOV from before files said what they are."""
    from c2pa import C2paError

    with parent.open("rb") as source:
        try:
            builder.add_ingredient(said, MIMES.get(parent.suffix.lower(), _BYTES), source)
        except C2paError:
            source.seek(0)
            builder.add_ingredient(said, _BYTES, source)


def _builder(said: dict[str, object], actions: Sequence[dict[str, object]]) -> Builder:
    from c2pa import Builder, Context, Settings

    settings = Settings.from_dict({"builder": {"thumbnail": {"enabled": False}}, "verify": _QUIET})
    made = {"claim_generator_info": [{"name": "OpenSAMA"}], "assertions": [], **said}
    builder = Builder(made, Context(settings))
    for action in actions:
        builder.add_action(action)
    return builder


def _created(builder: Builder) -> None:
    from c2pa import C2paBuilderIntent, C2paDigitalSourceType

    builder.set_intent(C2paBuilderIntent.CREATE, C2paDigitalSourceType.COMPOSITE_WITH_TRAINED_ALGORITHMIC_MEDIA)


# --- reading


@dataclass(frozen=True)
class Credentials:
    """What a file's credentials say, and whether they hold."""

    state: str
    """`none`; `valid, signer unknown`; `trusted`; `changed since`; or `not valid` with the reasons."""
    signer: str = ""
    actions: tuple[str, ...] = ()
    parent: str = ""
    """What the parent is called, and how it stood with its own credentials: nothing for one without a parent."""


def credentials_of(path: Path, trust: Path | None = None) -> Credentials:
    """The file's own, or those in its side file. `trust` holds the certificates of those who are trusted, PEM."""
    check_installed()
    from c2pa import C2paError, Context, Reader, Settings

    settings: dict[str, object] = {"verify": _QUIET}
    if trust is not None:
        settings["trust"] = {"user_anchors": _read(trust).decode("ascii", "replace")}
    side = side_file(path)
    beside = side.read_bytes() if side is not None and side.is_file() else None
    kind = MIMES.get(path.suffix.lower(), _BYTES)
    if side is not None and beside is None:
        return Credentials("none")
    try:
        with path.open("rb") as file, Reader(kind, file, beside, Context(Settings.from_dict(settings))) as reader:
            return _said(reader.get_validation_state(), reader.get_validation_results(), reader.get_active_manifest())
    except C2paError.ManifestNotFound:
        return Credentials("none")
    except C2paError as error:
        return Credentials(f"not valid ({str(error)[:120]})")


def _said(state: str | None, results: dict[str, Any] | None, manifest: dict[str, Any] | None) -> Credentials:
    failures = {one["code"] for one in ((results or {}).get("activeManifest") or {}).get("failure", ())}
    words = {"Valid": "valid, signer unknown", "Trusted": "trusted"}.get(state or "")
    if words is None:
        changed = any(code.endswith("ash.mismatch") for code in failures)
        words = "changed since" if changed else f"not valid ({', '.join(sorted(failures)) or state})"
    manifest = manifest or {}
    actions = [
        action["action"]
        for assertion in manifest.get("assertions", ())
        if assertion["label"].startswith("c2pa.actions")
        for action in assertion["data"]["actions"]
    ]
    parents = [one for one in manifest.get("ingredients", ()) if one.get("relationship") == "parentOf"]
    kept = "with credentials of its own" if parents and "active_manifest" in parents[0] else "without credentials"
    parent = f"{parents[0].get('title') or 'without a name'}, {kept}" if parents else ""
    signature = manifest.get("signature_info") or {}
    signer = ", ".join(filter(None, (signature.get("common_name"), signature.get("issuer"))))
    return Credentials(words, signer, tuple(actions), parent)
