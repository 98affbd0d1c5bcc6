"""Signatures of ledger entries, made and checked by sigstore's model-signing.

Hashes in the ledger do not protect against a person who may write to the artifact store and to MLflow. Such a person
can write a new ledger. Signatures protect the ledger from a person who does not have the private key.

An entry is signed without its field ``signature``, as JSON with sorted keys and no spaces. The signature is a sigstore
bundle (https://docs.sigstore.dev/about/bundle/), which ``model_signing verify`` reads, too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from airflow_mlops.core.errors import ModelCorruptError, SpecError
from airflow_mlops.core.temporary import temporary_folder

# The settings `[mlops] signing_key` and `[mlops] verifying_key`, which Airflow passes to the process of a step.
SIGNING_VARIABLE = "MLOPS_SIGNING_KEY"
VERIFYING_VARIABLE = "MLOPS_VERIFYING_KEY"
FIELD = "signature"


def required() -> bool:
    """Return whether promotions must be signed: ``MLOPS_VERIFYING_KEY`` names a public key."""
    return bool(os.environ.get(VERIFYING_VARIABLE))


def sign(entry: Mapping[str, Any]) -> str | None:
    """Return the signature of an entry, or ``None`` if ``MLOPS_SIGNING_KEY`` names no private key.

    :param entry: the entry as JSON; a field ``signature`` is not signed
    :raises SpecError: the key cannot be used, or model-signing is not installed
    """
    key = os.environ.get(SIGNING_VARIABLE)
    if not key:
        return None
    signing, _ = _library()
    try:
        signer = signing.Config().use_elliptic_key_signer(private_key=_readable(key))
    # Keys of other kinds raise errors of several types.
    except Exception as error:
        raise _unusable("signing_key", SIGNING_VARIABLE, key, "a private", error) from error
    with temporary_folder("signature") as folder:
        content, signature = Path(folder, "entry.json"), Path(folder, "entry.sig")
        content.write_bytes(_signed_bytes(entry))
        signer.sign(content, signature)
        return signature.read_text(encoding="utf-8")


def require_valid(entry: Mapping[str, Any], name: str) -> None:
    """Check the signature of an entry with the public key that ``MLOPS_VERIFYING_KEY`` names.

    :param entry: the entry as JSON
    :param name: name of the entry in the error, such as ``entry URL of the ledger``
    :raises ModelCorruptError: the entry has no signature, or was not signed with the private key for this public key
    :raises SpecError: the key cannot be used, or model-signing is not installed
    """
    key = os.environ[VERIFYING_VARIABLE]
    _, verifying = _library()
    try:
        verifier = verifying.Config().use_elliptic_key_verifier(public_key=_readable(key))
    # Keys of other kinds raise errors of several types.
    except Exception as error:
        raise _unusable("verifying_key", VERIFYING_VARIABLE, key, "a public", error) from error
    if not isinstance(entry.get(FIELD), str):
        raise _invalid(name, key, "has no signature")
    with temporary_folder("signature") as folder:
        content, signature = Path(folder, "entry.json"), Path(folder, "entry.sig")
        try:
            content.write_bytes(_signed_bytes(entry))
            signature.write_text(entry[FIELD], encoding="utf-8")
            verifier.verify(content, signature)
        # A damaged bundle raises errors of several libraries. Each of them means that the signature is not valid.
        except Exception as error:
            raise _invalid(name, key, "was signed with another key, or changed after it was signed") from error


def _signed_bytes(entry: Mapping[str, Any]) -> bytes:
    signed = {name: value for name, value in entry.items() if name != FIELD}
    return json.dumps(signed, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _readable(key: str) -> Path:
    Path(key).open("rb").close()
    return Path(key)


def _library() -> tuple[Any, Any]:
    try:
        from model_signing import signing, verifying
    except ImportError as error:
        raise SpecError(
            "Signatures of the ledger need model-signing, which is not installed where the step runs. Install "
            "airflow-mlops[signing] there."
        ) from error
    return signing, verifying


def _unusable(setting: str, variable: str, key: str, kind: str, error: Exception) -> SpecError:
    return SpecError(
        f"The setting [mlops] {setting} (environment variable {variable}) names {key!r}, which cannot be read as {kind} key of an "
        f"elliptic curve in PEM format: {error}. Write such a key to this file, or correct the setting."
    )


def _invalid(name: str, key: str, problem: str) -> ModelCorruptError:
    return ModelCorruptError(
        f"The {name} {problem}, but the setting [mlops] verifying_key (environment variable {VERIFYING_VARIABLE}) requires a signature "
        f"that matches {key!r}. Roll back to a version whose promotion was signed, or promote another version with `[mlops] signing_key` "
        "while `verifying_key` is not set."
    )
