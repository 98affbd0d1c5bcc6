"""With a key, the entries of the ledger are signed, and only champions whose promotion was signed are used."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from airflow_mlops.core.errors import ModelCorruptError, SpecError
from airflow_mlops.data.datasets import open_dataset
from airflow_mlops.models import contracts
from airflow_mlops.registry.aliases import verify
from airflow_mlops.registry.ledger import Ledger
from airflow_mlops.registry.records.entry import Decision
from airflow_mlops.registry.signatures import SIGNING_VARIABLE, VERIFYING_VARIABLE
from airflow_mlops.serving.processes import follow
from airflow_mlops.serving.spec import ServeSpec
from airflow_mlops.stages.canary import step as canary
from airflow_mlops.stages.canary.spec import CanarySpec
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.evaluate import step as evaluate
from airflow_mlops.stages.evaluate.spec import EvaluateSpec
from airflow_mlops.stages.promote import step as promote
from airflow_mlops.stages.promote.spec import PromoteSpec
from airflow_mlops.stages.score import step as score
from airflow_mlops.stages.score.spec import ScoreSpec
from tests.support.candidates import register, training_set

pytestmark = pytest.mark.usefixtures("files_in_a_folder")

GATES = [{"metric": "accuracy", "min": 0.6}, {"champion": "ignore"}]


def key_pair(folder: Path, curve: str = "SECP256R1") -> tuple[Path, Path]:
    """The files of a new private key and its public key."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    private = ec.generate_private_key(getattr(ec, curve)())
    files = folder / f"{uuid.uuid4().hex}.pem", folder / f"{uuid.uuid4().hex}.pub"
    pem = serialization.Encoding.PEM
    secret = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    files[0].write_bytes(private.private_bytes(pem, *secret))
    files[1].write_bytes(private.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    return files


def rsa_key(*, private: bool) -> bytes:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    made, pem = rsa.generate_private_key(65537, 2048), serialization.Encoding.PEM
    if private:
        return made.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return made.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)


@pytest.fixture
def keys(tmp_path):
    return key_pair(tmp_path)


@pytest.fixture
def signed(keys, monkeypatch):
    """Steps sign what they record."""
    monkeypatch.setenv(SIGNING_VARIABLE, str(keys[0]))


@pytest.fixture
def dataset(store):
    return training_set(store)


@pytest.fixture
def promoted(client, store, dataset, tmp_path):
    """Evaluate and promote a new version of the model."""
    model = f"delays_{uuid.uuid4().hex[:8]}"

    def promoted():
        ref = register(client, tmp_path / uuid.uuid4().hex, dataset, (2, 0), model=model)
        verdict = evaluate.run(EvaluateSpec(candidates=[ref], gates=GATES), step(store)).verdict
        assert promote.run(PromoteSpec(verdict=verdict), step(store)).promoted
        return ref

    return promoted


def step(store):
    return StepContext(store=store, key=f"results/{uuid.uuid4().hex}.json")


def scored(store, model, dataset):
    result = score.run(ScoreSpec(model=model, dataset=dataset, part="test", window="2013-04"), step(store))
    return open_dataset(store, result.dataset).rows


def edit(store, ledger, seq, **changes):
    """Overwrite an entry, as anyone with write access to the store can."""
    path = f"{ledger.folder}/{seq:08d}.json"
    content = json.loads(store.read_bytes(path))
    store.write_bytes(path, json.dumps({**content, **changes}).encode())


def test_a_signed_champion_scores_and_a_forged_promotion_does_not(
    client, store, dataset, promoted, signed, keys, monkeypatch
):
    first = promoted()
    monkeypatch.delenv(SIGNING_VARIABLE)
    monkeypatch.setenv(VERIFYING_VARIABLE, str(keys[1]))
    assert scored(store, first.model, dataset) > 0
    ledger = Ledger(store, first.model)
    # A person with write access to MLflow and to the store can write a promotion, but cannot sign it.
    promoted()
    with pytest.raises(ModelCorruptError, match=r"00000002\.json of the ledger has no signature"):
        scored(store, first.model, dataset)
    # The signature of another entry is not valid for this entry.
    edit(store, ledger, 2, signature=ledger.entries()[0].signature)
    with pytest.raises(
        ModelCorruptError, match=r"00000002\.json of the ledger was signed with another key, or changed"
    ):
        scored(store, first.model, dataset)
    client.set_registered_model_alias(first.model, "champion", str(first.version))
    assert scored(store, first.model, dataset) > 0


@pytest.mark.parametrize("changes", [{"reason": "Another"}, {"files": {}}, {"card": {}}, {"signature": "{}"}])
def test_a_changed_promotion_is_not_the_signed_one(changes, store, dataset, promoted, signed, keys, monkeypatch):
    ref = promoted()
    monkeypatch.setenv(VERIFYING_VARIABLE, str(keys[1]))
    ledger = Ledger(store, ref.model)
    assert ledger.promotion(ref.version) is not None
    edit(store, ledger, 1, **changes)
    with pytest.raises(ModelCorruptError, match=r"00000001\.json of the ledger"):
        ledger.promotion(ref.version)


def test_the_key_must_be_the_one_that_signed(store, promoted, signed, keys, tmp_path, monkeypatch):
    ref = promoted()
    monkeypatch.setenv(VERIFYING_VARIABLE, str(key_pair(tmp_path)[1]))
    with pytest.raises(ModelCorruptError, match="was signed with another key"):
        Ledger(store, ref.model).promotion(ref.version)


def test_a_champion_that_the_ledger_did_not_promote_is_refused(
    client, store, dataset, promoted, signed, keys, tmp_path, monkeypatch
):
    ref = promoted()
    monkeypatch.setenv(VERIFYING_VARIABLE, str(keys[1]))
    other = register(client, tmp_path / "other", dataset, (0, 2), model=ref.model)
    client.set_registered_model_alias(ref.model, "champion", str(other.version))
    with pytest.raises(ModelCorruptError, match="the ledger has no promotion of it"):
        scored(store, ref.model, dataset)
    # A challenger that a DAG names needs no promotion.
    client.set_registered_model_alias(ref.model, "champion", str(ref.version))
    spec = ScoreSpec(model=ref.model, version=other.version, dataset=dataset, part="test", window="2013-04")
    assert score.run(spec, step(store)).dataset.rows > 0


def test_verification_reads_every_signature(client, store, promoted, signed, keys, monkeypatch):
    ref = promoted()
    ledger = Ledger(store, ref.model)
    ledger.record("r", lambda entries: refused(entries, "first"))
    monkeypatch.delenv(SIGNING_VARIABLE)
    # Only promotions need a signature.
    ledger.record("s", lambda entries: refused(entries, "second"))
    monkeypatch.setenv(VERIFYING_VARIABLE, str(keys[1]))
    assert [entry.signature is None for entry in verify(client, ledger)] == [False, False, True]
    ledger.require_signatures()
    signed_entry, unsigned = ledger.entries()[1:]
    ledger.require_signed(signed_entry)
    with pytest.raises(ModelCorruptError, match="has no signature"):
        ledger.require_signed(unsigned)
    edit(store, ledger, 3, signature=ledger.entries()[1].signature)
    ledger.entries()
    with pytest.raises(ModelCorruptError, match=r"00000003\.json of the ledger"):
        ledger.require_signatures()


def refused(entries, reason):
    champion = entries[-1].champion
    return Decision(decision="refused", replaced=champion, champion=champion, reason=reason)


def test_fields_that_this_release_does_not_know_are_signed_too(store, promoted, signed, keys, monkeypatch):
    ref = promoted()
    monkeypatch.setenv(VERIFYING_VARIABLE, str(keys[1]))
    ledger = Ledger(store, ref.model)
    edit(store, ledger, 1, a_field_of_a_newer_release=1)
    with pytest.raises(ModelCorruptError):
        ledger.promotion(ref.version)


def test_a_signed_entry_counts_only_in_its_own_place(store, promoted, signed, keys, monkeypatch):
    ref = promoted()
    monkeypatch.setenv(VERIFYING_VARIABLE, str(keys[1]))
    content = store.read_bytes(f"ledger/{ref.model}/00000001.json")
    # The ledger of another model, and another number.
    store.write_bytes("ledger/other/00000001.json", content)
    with pytest.raises(ModelCorruptError, match=f"was signed as entry 1 of the ledger of '{ref.model}'"):
        Ledger(store, "other").promotion(ref.version)
    store.write_bytes(f"ledger/{ref.model}/00000002.json", content)
    with pytest.raises(ModelCorruptError, match="was signed as entry 1"):
        Ledger(store, ref.model).promotion(ref.version)


def test_an_evaluation_refuses_a_champion_that_nobody_signed(
    client, store, dataset, promoted, signed, keys, tmp_path, monkeypatch
):
    ref = promoted()
    weak, mine = (register(client, tmp_path / name, dataset, (0, 1), model=ref.model) for name in ("weak", "mine"))
    client.set_registered_model_alias(ref.model, "champion", str(weak.version))
    monkeypatch.setenv(VERIFYING_VARIABLE, str(keys[1]))
    spec = EvaluateSpec(candidates=[mine], gates=[{"metric": "accuracy", "better_than_champion_by": 0}])
    with pytest.raises(ModelCorruptError, match="the ledger has no promotion of it"):
        evaluate.run(spec, step(store))


def test_a_tag_in_mlflow_does_not_replace_the_promoted_contract(client, store, promoted):
    ref = promoted()
    found = contracts.read(client, store, ref)
    client.set_model_version_tag(ref.model, str(ref.version), contracts.CONTRACT_TAG, "0" * 64)
    assert contracts.read(client, store, ref).contract == found.contract


def test_promotions_before_the_first_signature_are_not_an_error(store, promoted, keys, monkeypatch):
    ref = promoted()
    monkeypatch.setenv(SIGNING_VARIABLE, str(keys[0]))
    promoted()
    monkeypatch.setenv(VERIFYING_VARIABLE, str(keys[1]))
    ledger = Ledger(store, ref.model)
    assert [entry.signature is None for entry in ledger.entries()] == [True, False]
    ledger.require_signatures()
    monkeypatch.delenv(SIGNING_VARIABLE)
    promoted()
    ledger.entries()
    with pytest.raises(ModelCorruptError, match=r"00000003\.json of the ledger has no signature"):
        ledger.require_signatures()


@pytest.mark.parametrize("variable", [SIGNING_VARIABLE, VERIFYING_VARIABLE])
@pytest.mark.parametrize("content", [None, b"", b"no key", "rsa"])
def test_a_key_that_cannot_be_read_is_an_error(variable, content, store, promoted, signed, tmp_path, monkeypatch):
    ref = promoted()
    if content == "rsa":
        content = rsa_key(private=variable == SIGNING_VARIABLE)
    if content is not None:
        (tmp_path / "key").write_bytes(content)
    monkeypatch.setenv(variable, str(tmp_path / "key"))
    ledger = Ledger(store, ref.model)
    with pytest.raises(SpecError, match=r"\[mlops\] (signing|verifying)_key"):
        ledger.promotion(ref.version)
        ledger.record("r", lambda entries: refused(entries, "any"))
    assert ledger.count() == 1


def test_sigstore_s_own_command_verifies_an_entry(store, promoted, signed, keys, tmp_path):
    ref = promoted()
    content = json.loads(store.read_bytes(f"ledger/{ref.model}/00000001.json"))
    (tmp_path / "entry.sig").write_text(content.pop("signature"))
    file = tmp_path / "entry.json"
    file.write_text(json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False))
    command = [sys.executable, "-m", "model_signing", "verify", "key", str(file)]
    options = ["--signature", str(tmp_path / "entry.sig"), "--public_key", str(keys[1])]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_a_canary_answers_only_with_a_signed_rollout_and_its_share(
    client, store, promoted, dataset, signed, keys, tmp_path, monkeypatch
):
    champion = promoted()
    v2 = register(client, tmp_path / "v2", dataset, (2, 1), model=champion.model)
    spec = ServeSpec(model=champion.model, store=store.url, canary="canary")

    def share(tag):
        return follow._share(store, v2, spec, "canary", tag)

    def download():
        return follow._download(client, store, v2, spec, "canary")

    monkeypatch.setenv(VERIFYING_VARIABLE, str(keys[1]))
    with pytest.raises(ModelCorruptError, match="CanaryOperator"):
        download()
    rollout = CanarySpec(model=champion.model, version=v2.version, shares=[0.05, 0.2])
    assert canary.run(rollout, step(store)).state == "started"
    # A person with write access to MLflow can set another share or replace a file.
    assert share("0.9") == "0.05"
    file = download() / "model.onnx"
    file.write_bytes(b"changed")
    assert (download() / "model.onnx").read_bytes() != b"changed"
    ledger = Ledger(store, v2.model)
    seq = ledger.count()
    entry = json.loads(store.read_bytes(f"{ledger.folder}/{seq:08d}.json"))
    edit(store, ledger, seq, canary={**entry["canary"], "share": 0.9})
    for check in (download, lambda: share("0.9")):
        with pytest.raises(ModelCorruptError, match="signed with another key"):
            check()
    monkeypatch.delenv(VERIFYING_VARIABLE)
    assert share("0.9") == "0.9"


def test_without_keys_nothing_is_signed(store, promoted):
    ref = promoted()
    assert "signature" not in json.loads(store.read_bytes(f"ledger/{ref.model}/00000001.json"))
    assert "model_signing" not in sys.modules or Ledger(store, ref.model).promotion(ref.version).signature is None
