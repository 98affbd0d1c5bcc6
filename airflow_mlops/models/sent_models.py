"""Pass the files of a model version to other machines, which then need no access to MLflow.

The files are in the artifact store while the other machines need them. Each machine checks their hash, so a file that
somebody changed in the store is never loaded.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from airflow_mlops.core.base import Model
from airflow_mlops.core.contract import ModelContract
from airflow_mlops.core.errors import ModelCorruptError, StoreError
from airflow_mlops.core.temporary import lasting_folder
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.models.contract_file import CONTRACT_FILE, has_contract
from airflow_mlops.models.onnx.scorer import MODEL_FILE, OnnxModel
from airflow_mlops.models.scorer import Scorer

if TYPE_CHECKING:
    from airflow_mlops.models.attributions import Explainer


class SentModel(Model):
    """The files of a model version in the artifact store, and how they are loaded.

    :param key: key of the archive in the artifact store
    :param sha256: hash of the archive
    :param name: name of the version in errors, such as ``delays v3``
    :param explain: whether attributions are computed as well
    :param contract: the model contract of a version that is loaded with its MLflow flavour; ``None`` for a version that
        is loaded from its ONNX export
    :param allow_pyfunc: whether loading may run code that is stored in the version
    """

    key: str
    sha256: str
    name: str
    explain: bool = False
    contract: ModelContract | None = None
    allow_pyfunc: bool = False


@contextmanager
def sent(
    store: ArtifactStore,
    folder: Path,
    name: str,
    *,
    explain: bool,
    contract: ModelContract | None,
    allow_pyfunc: bool,
) -> Iterator[SentModel]:
    """Write the files of a version to the artifact store as one archive, and delete the archive when the block ends.

    For a version that TrainOperator trained, the archive contains only the ONNX export and the contract, unless
    attributions are computed.

    :param folder: the downloaded and checked files of the version
    :param name: name of the version in errors
    :param explain: whether attributions are computed as well
    :param contract: the model contract of a version that is loaded with its MLflow flavour; otherwise ``None``
    :param allow_pyfunc: whether loading may run code that is stored in the version
    """
    key = f"checkpoints/models/{uuid.uuid4().hex}.tar"
    only = (MODEL_FILE, CONTRACT_FILE) if has_contract(folder) and not explain else None
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    try:
        with store.create(key) as file, tarfile.open(fileobj=cast("Any", file), mode="w|") as archive:
            for path in files:
                inside = path.relative_to(folder).as_posix()
                if only is None or inside in only:
                    archive.add(path, inside)
        yield SentModel(
            key=key, sha256=file.sha256, name=name, explain=explain, contract=contract, allow_pyfunc=allow_pyfunc
        )
    finally:
        store.delete(key)


def load(store: ArtifactStore, model: SentModel) -> tuple[Scorer, Explainer | None]:
    """Load a version on another machine. Each process keeps the two versions that it used last.

    :return: two items: the loaded model, and its explainer (``None`` if ``model.explain`` is false)
    :raises StoreError: the step that sent the version has ended, or the artifact store cannot be read
    :raises ModelCorruptError: the archive was changed
    :raises ModelFormatError: the version cannot be loaded
    """
    return _loaded(store, model.model_dump_json())


@lru_cache(maxsize=2)
def _loaded(store: ArtifactStore, text: str) -> tuple[Scorer, Explainer | None]:
    model = SentModel.model_validate_json(text)
    try:
        content = store.read_bytes(model.key)
    except FileNotFoundError:
        raise StoreError(
            f"The files of {model.name} are not in the artifact store {store.url}. Check that executors use the same "
            "store as the step, and that the step still runs."
        ) from None
    if hashlib.sha256(content).hexdigest() != model.sha256:
        raise ModelCorruptError(
            f"The files of {model.name} were changed in the artifact store while they were passed to executors. Clear the "
            "task, and check who can write to the store."
        )
    # Libraries may read files later, so the files of loaded versions stay until the process ends.
    folder = lasting_folder("model")
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        # The step packed the archive, and its hash was checked.
        archive.extractall(folder)  # noqa: S202
    if model.contract is not None:
        from airflow_mlops.models.pyfunc import scorer as pyfunc_model

        return pyfunc_model.load_measured(folder, model.name, model.contract, allow_pyfunc=model.allow_pyfunc), None
    scorer = OnnxModel.load(folder)
    if not model.explain:
        return scorer, None
    from airflow_mlops.models import attributions

    return scorer, attributions.load(folder, scorer.contract, model.name)
