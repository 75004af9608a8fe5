#!/usr/bin/env bash
# A C2PA manifest of an edit names its parent. Guess: asked for an edit (intent EDIT) without having been given a parent
# ingredient, the library refuses to sign, since it cannot know what was edited.
# Seen with c2pa-python 0.38.1: it signs, and has made the file that is being signed its own parent, as that file's own
# older manifest shows, which is the parent's. Give the parent with `add_ingredient`, or say CREATE.
#
#   c2pa-python 0.38.1
#   expected: an error, or no parent
#   parents without any given: 1, called None, with the manifest of the result itself
#   parents with one given: 1, called source.png, with no manifest
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q c2pa-python==0.38.1 cryptography==50.0.2 pillow==13.0.0
cat > "$folder/look.py" <<'P'
import datetime
import importlib.metadata
import io

from c2pa import Builder, C2paBuilderIntent, C2paDigitalSourceType, C2paSignerInfo, Context, Reader, Settings, Signer
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from PIL import Image

USES = "content_commitment key_encipherment data_encipherment key_agreement encipher_only decipher_only".split()


def certificate(name, key, issuer, issuer_key, ca):
    now = datetime.datetime.now(datetime.timezone.utc)
    named = [x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, one)]) for one in (name, issuer)]
    usage = x509.KeyUsage(digital_signature=not ca, key_cert_sign=ca, crl_sign=ca, **dict.fromkeys(USES, False))
    made = x509.CertificateBuilder(named[1], named[0], key.public_key(), x509.random_serial_number())
    made = made.not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=9))
    made = made.add_extension(x509.BasicConstraints(ca, None), True).add_extension(usage, True)
    made = made.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    made = made.add_extension(authority, False)
    if not ca:
        made = made.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), False)
    return made.sign(issuer_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def picture(grey):
    file = io.BytesIO()
    Image.new("RGB", (16, 16), (grey,) * 3).save(file, "PNG")
    file.seek(0)
    return file


root_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
chain = certificate("leaf", key, "root", root_key, False) + certificate("root", root_key, "root", root_key, True)
form = serialization.PrivateFormat.PKCS8
secret = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def sign(intent, source, parent=None):
    made = {"title": "result.png", "claim_generator_info": [{"name": "test"}]}
    builder = Builder(made, Context(Settings.from_dict({"builder": {"thumbnail": {"enabled": False}}})))
    builder.set_intent(*intent)
    if parent is not None:
        builder.add_ingredient({"title": "source.png", "relationship": "parentOf"}, "image/png", parent)
    target = io.BytesIO()
    builder.sign(Signer.from_info(C2paSignerInfo(b"es256", chain, secret, None)), "image/png", source, target)
    target.seek(0)
    return target


def manifest(file):
    file.seek(0)
    return Reader("image/png", file).get_active_manifest()


print("c2pa-python", importlib.metadata.version("c2pa-python"))
print("expected: an error, or no parent")
created = C2paBuilderIntent.CREATE, C2paDigitalSourceType.DIGITAL_CREATION
for words, parent in (("without any given", None), ("with one given", picture(10))):
    result = sign(created, picture(200))  # signed before
    own = manifest(result)["label"]
    result.seek(0)
    edited = manifest(sign((C2paBuilderIntent.EDIT,), result, parent))
    parents = [one for one in edited["ingredients"] if one["relationship"] == "parentOf"]
    held = parents[0].get("active_manifest")
    said = "no manifest" if held is None else "the manifest of the result itself" if held == own else "another manifest"
    print(f"parents {words}: {len(parents)}, called {parents[0].get('title')}, with {said}")
    assert len(parents) == 1, "the behaviour has changed"
    assert said == ("the manifest of the result itself" if parent is None else "no manifest"), "changed"
P
"$folder/venv/bin/python" "$folder/look.py"
