"""Makes what clients show, with PyPI's PyJWT, cryptography, bcrypt and argon2-cffi.

keys FOLDER            private keys, their JWK sets and a secret
token FOLDER KEY SECONDS CLAIMS   a token that is good for so long
users FOLDER           a password file: ada has the password "one", grace "two"
"""

import json
import sys
import time
from pathlib import Path

import argon2
import bcrypt
import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

KINDS = {
    "RS256": (lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048), jwt.algorithms.RSAAlgorithm),
    "ES256": (lambda: ec.generate_private_key(ec.SECP256R1()), jwt.algorithms.ECAlgorithm),
    "EdDSA": (ed25519.Ed25519PrivateKey.generate, jwt.algorithms.OKPAlgorithm),
}


def keys(folder):
    secret = "0123456789abcdef" * 4
    (folder / "secret").write_text(secret + "\n")
    jwks = []
    for name, (make, kind) in KINDS.items():
        key = make()
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (folder / f"{name}.key").write_bytes(pem)
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        (folder / f"{name}.pem").write_bytes(public)
        jwk = json.loads(kind.to_jwk(key.public_key())) | {"kid": name, "use": "sig", "alg": name}
        (folder / f"{name}.json").write_text(json.dumps({"keys": [jwk]}))
        jwks.append(jwk)
    (folder / "jwks.json").write_text(json.dumps({"keys": jwks}))


def token(folder, key, seconds, claims):
    claims = json.loads(claims) | {"exp": time.time() + float(seconds)}
    if key == "HS256":
        print(jwt.encode(claims, (folder / "secret").read_text().strip(), "HS256"), end="")
    else:
        print(jwt.encode(claims, (folder / f"{key}.key").read_bytes(), key, headers={"kid": key}), end="")


def users(folder):
    slow = argon2.PasswordHasher(time_cost=1, memory_cost=1024, parallelism=1)
    (folder / "htpasswd").write_text(
        f"ada:{bcrypt.hashpw(b'one', bcrypt.gensalt(4)).decode()}\ngrace:{slow.hash('two')}\n"
    )


commands = {"keys": keys, "token": token, "users": users}
commands[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:])
