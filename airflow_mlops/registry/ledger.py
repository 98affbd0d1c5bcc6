"""The ledger, an append-only record of all decisions about a model.

Decisions are about champions, requests, acknowledgements, deployments, canaries and received versions. The ledger also
records changes of the champion that were made outside of this package.

Each entry is an immutable JSON file in the artifact store. For a model called MODEL::

    ledger/MODEL/00000001.json
    ledger/MODEL/00000002.json

Each entry contains the SHA-256 of the previous file, so a changed, removed or inserted entry is detected. MLflow stores
the SHA-256 of each change of the champion as a tag of the new champion (:mod:`airflow_mlops.registry.aliases`), so the
removal of the last change is detected as well. Each entry has its own file, because object stores cannot append to a
file. The artifact store creates a file only if it does not exist, so two writers never use the same number.

With a key, entries are also signed (:mod:`airflow_mlops.registry.signatures`).

A *pack* has the content of many entries in one object, so that reading a long ledger takes few requests::

    indexes/ledger/MODEL.json.gz

A pack is rebuilt when it lacks many entries. A pack that does not match the entries is not used. If the pack contains
an entry, the file of the entry is not read. ``airflow mlops ledger --verify`` reads each file, and so finds changes to
these files.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from urllib.parse import quote

from pydantic import ValidationError

from airflow_mlops.core.errors import ModelCorruptError, RegistryError, StoreError
from airflow_mlops.data.store import ATTEMPTS, ArtifactStore, pauses
from airflow_mlops.registry import signatures
from airflow_mlops.registry.records.entry import Decision, Entry

log = logging.getLogger(__name__)

# The pack is read or written only if this saves more reads than this number.
_UNPACKED = 16


def folder_name(name: str) -> str:
    """Return a folder name for a registered model. The name of the model may contain any characters."""
    return quote(name, safe="").replace(".", "%2E")


class Ledger:
    """The ledger of one registered model, an append-only record of decisions and retraining requests.

    :param store: artifact store with the files of the ledger
    :param model: name of the registered model
    """

    def __init__(self, store: ArtifactStore, model: str) -> None:
        self.store = store
        self.model = model
        self.folder = f"ledger/{folder_name(model)}"
        self._pack_key = f"indexes/ledger/{folder_name(model)}.json.gz"
        # The entries that were read, the content of their files, and how many of them are not in the pack.
        self._entries: list[Entry] = []
        self._files: list[bytes] = []
        self._unpacked = 0

    def entries(self, *, every_file: bool = False) -> list[Entry]:
        """Read all entries, oldest first.

        :param every_file: whether to read the file of each entry, instead of the pack
        :raises RegistryError: an entry was changed, removed or inserted; the error names the entry and its file
        :raises StoreError: the store cannot be read
        """
        self._entries, self._files, self._unpacked = [], [], 0
        return self._read_newer(packed=not every_file)

    @property
    def known(self) -> list[Entry]:
        """Return the entries that this object has read, oldest first."""
        return [*self._entries]

    def updated_entries(self) -> list[Entry]:
        """Return all entries, oldest first. Entries that this object has read before are not read again.

        :raises RegistryError: an entry was changed, removed or inserted; the error names the entry and its file
        :raises StoreError: the store cannot be read
        """
        return self._read_newer()

    def checked(self, contents: Mapping[str, bytes]) -> list[Entry]:
        """Check the content of files that the caller has read, and return the entries in the files, oldest first.

        :param contents: content of the file of each entry, by key, in the order of the keys
        :raises RegistryError: an entry was changed, removed or inserted; the error names the entry and its file
        :raises StoreError: the store cannot be read
        """
        self._entries, self._files, self._unpacked = [], [], 0
        if self._lacks_files([*contents]):
            # A listing that ran during a write lacks a file.
            return self._read_newer()
        for key, content in contents.items():
            self._append(self._parse(key, content), content)
        return [*self._entries]

    def _read_newer(self, *, packed: bool = True) -> list[Entry]:
        for pause in pauses():
            keys = self.store.keys(self.folder)
            known = len(self._entries)
            contents = self._contents(keys, known, packed=packed)
            # A listing that runs during a write may contain a new file but not the previous one.
            if not self._lacks_files(keys) and all(key in contents for key in keys[known:]):
                for key in keys[known:]:
                    self._append(self._parse(key, contents[key]), contents[key])
                return [*self._entries]
            time.sleep(pause)
        raise StoreError(
            f"The artifact store {self.store.url} lists the files of the ledger of {self.model!r} incompletely. Retry "
            "later, or use a store whose listings are consistent."
        )

    def _lacks_files(self, keys: Sequence[str]) -> bool:
        """Return whether a listing lacks a file that exists.

        :raises RegistryError: the file of an entry does not exist, or the listing has a file that is not an entry
        """
        for seq, key in enumerate(keys, start=1):
            if key > self._key(seq):
                if self.store.exists(self._key(seq)):
                    return True
                raise self.tampered(f"entry {seq} is missing ({self.url(seq)})")
            if key != self._key(seq):
                raise self.tampered(f"entry {seq} was replaced by {self.store.url_of(key)}")
        return False

    def _contents(self, keys: Sequence[str], start: int = 0, *, packed: bool = True) -> dict[str, bytes]:
        """Read the files ``keys[start:]``. Files in the pack are read from the pack, and missing files are left out.

        :param keys: keys of all entries, in order
        :param packed: whether to use the pack
        :return: content of each file by key
        """
        if packed and not start and len(keys) > _UNPACKED and (pack := self._pack()):
            names, last = keys[: len(pack)], len(pack) - 1
            if names == [self._key(seq) for seq in range(1, len(pack) + 1)]:
                rest = self.store.read_many(keys[last:])
                # Each entry contains the hash of the previous file. If the last file of the pack is equal, all files
                # are.
                if rest.get(names[last]) == pack[last]:
                    self._unpacked = len(rest) - 1
                    return {**dict(zip(names, pack, strict=True)), **rest}
        found = self.store.read_many(keys[start:])
        self._unpacked += len(found)
        return found

    def _pack(self) -> list[bytes]:
        """Read the pack: the content of the files of the first entries. The list is empty if there is no valid pack."""
        try:
            pack = [text.encode() for text in json.loads(gzip.decompress(self.store.read_bytes(self._pack_key)))]
            previous = [json.loads(content)["previous"] for content in pack]
        except FileNotFoundError:
            return []
        except (
            StoreError,
            OSError,
            EOFError,
            zlib.error,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            RecursionError,
        ) as error:
            log.warning(
                "The packed copy of the ledger, %s, cannot be read (%s). The entries are read from their own files, which is slower.",
                self._pack_key,
                error,
            )
            return []
        return pack if previous == ["", *map(_sha256, pack[:-1])] else []

    def _write_pack(self) -> None:
        """Write the pack if that saves many reads. The pack is never required, so a failure is only logged."""
        if self._unpacked <= _UNPACKED:
            return
        content = json.dumps([content.decode() for content in self._files], ensure_ascii=False)
        try:
            self.store.write_bytes(self._pack_key, gzip.compress(content.encode(), mtime=0))
        except StoreError as error:
            log.warning(
                "The packed copy of the ledger of %r cannot be written, so reading the ledger is slow. %s",
                self.model,
                error,
            )
        self._unpacked = 0

    def _parse(self, key: str, content: bytes) -> Entry:
        try:
            return Entry.model_validate_json(content)
        except ValidationError as error:
            raise self.tampered(f"{self.store.url_of(key)} is not an entry") from error

    def _append(self, entry: Entry, content: bytes) -> Entry:
        """Check the number and the previous hash of an entry, and append it to the entries that were read.

        :raises RegistryError: the entry does not follow the last entry that was read
        """
        seq = len(self._entries) + 1
        if entry.seq != seq:
            raise self.tampered(f"entry {seq} was replaced by {self.url(seq)}")
        if entry.previous != (self._entries[-1].sha256 if self._entries else ""):
            raise self.tampered(self._broken_link(entry))
        entry = entry.model_copy(update={"sha256": _sha256(content)})
        self._entries.append(entry)
        self._files.append(content)
        return entry

    def promotion(self, version: int) -> Entry | None:
        """Return the last entry that promoted a version; ``None`` if the ledger has no such entry.

        If this object has read such an entry before, that entry is returned. Otherwise, the entries are read, and the chain
        of hashes is not checked. The signature of the entry is checked if signatures are required.

        :raises ModelCorruptError: the entry has no valid signature, but a signature is required
        :raises RegistryError: a file of the ledger is not an entry, or an entry is missing
        """
        for entry in reversed(self._entries):
            if entry.promotes(version):
                self.require_signed(entry)
                return entry
        keys = self.store.keys(self.folder)
        self._lacks_files(keys)
        contents = self._contents(keys)
        for key in sorted(contents, reverse=True):
            if (entry := self._parse(key, contents[key])).promotes(version):
                self._require_signature(entry, contents[key], key)
                return entry
        return None

    def require_signatures(self) -> None:
        """Check the signatures of the entries that were read, if signatures are required.

        Promotions before the first signed entry need no signature.

        :raises ModelCorruptError: a signature is not valid, or a later promotion has none
        """
        began = False
        for entry in self._entries:
            began = began or entry.signature is not None
            if entry.signature or (began and entry.decision == "promoted"):
                self.require_signed(entry)

    def require_signed(self, entry: Entry) -> None:
        """Check the signature of an entry that was read, if signatures are required.

        :raises ModelCorruptError: the entry has no valid signature
        """
        self._require_signature(entry, self._files[entry.seq - 1], self._key(entry.seq))

    def _require_signature(self, entry: Entry, content: bytes, key: str) -> None:
        if not signatures.required():
            return
        name = f"entry {self.store.url_of(key)} of the ledger"
        signatures.require_valid(json.loads(content), name)
        # A signed entry may have been copied from another ledger, or from another number. Its signature proves nothing
        # here.
        other = entry.champion is not None and entry.champion.model != self.model
        if entry.model != self.model or other or self._key(entry.seq) != key:
            raise ModelCorruptError(
                f"The {name} was signed as entry {entry.seq} of the ledger of {entry.model!r}. Restore the files under "
                f"{self.store.url_of(self.folder)} from a backup."
            )

    def has(self, seq: int) -> bool:
        """Return whether the file of entry number ``seq`` exists."""
        return self.store.exists(self._key(seq))

    def count(self) -> int:
        """Return the number of entries, without reading them."""
        return len(self.store.keys(self.folder))

    def _broken_link(self, entry: Entry) -> str:
        if not self._entries:
            return f"entry 1 was written after another entry, which was removed ({self.url(entry.seq)})"
        last = self._entries[-1].seq
        # Someone changed entry `last`, or its hash in the next entry.
        return f"entry {last} does not match its hash in entry {entry.seq} ({self.url(last)})"

    def record(self, entry_id: str, decide: Callable[[list[Entry]], Decision | None]) -> Entry | None:
        """Append a decision to the ledger, at most once for each ``entry_id``.

        If two tasks append an entry at the same time, only one task succeeds. The second task calls ``decide`` again
        with the entry of the first task included.

        :param entry_id: the ``id`` of the entry. If the ledger already contains an entry with this id, nothing is
            appended
        :param decide: function that takes the existing entries and returns the decision, or ``None`` to append nothing
        :return: the new or existing entry; ``None`` if ``decide`` returned ``None``
        :raises RegistryError: an existing entry was changed, removed or inserted
        :raises SpecError: the entry cannot be signed with the configured key
        :raises StoreError: the ledger cannot be read or written, or other tasks were faster at every attempt
        """
        for pause in pauses():
            entries = self.updated_entries()
            for entry in entries:
                if entry.id == entry_id:
                    return entry
            decision = decide(entries)
            if decision is None:
                return None
            entry = Entry(
                **dict(decision),
                seq=len(entries) + 1,
                id=entry_id,
                model=self.model,
                time=datetime.now(timezone.utc),
                previous=entries[-1].sha256 if entries else "",
            )
            content = entry.model_dump(mode="json")
            if signature := signatures.sign(content):
                content[signatures.FIELD] = signature
            data = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False).encode()
            if self.store.create_exclusive(self._key(entry.seq), data):
                self._unpacked += 1
                entry = self._append(entry.model_copy(update={"signature": signature}), data)
                self._write_pack()
                return entry
            time.sleep(pause)
        raise StoreError(
            f"The ledger of {self.model!r} was not written, because other tasks wrote an entry during each of "
            f"{ATTEMPTS} attempts. Retry later."
        )

    def url(self, seq: int) -> str:
        """Return the URL of the file of entry number ``seq``."""
        return self.store.url_of(self._key(seq))

    def _key(self, seq: int) -> str:
        return f"{self.folder}/{seq:08d}.json"

    def tampered(self, problem: str) -> RegistryError:
        """Create the error for a ledger that was tampered with.

        :param problem: a clause that names the entry, its file and the change, such as ``entry 3 is missing (URL)``
        """
        return RegistryError(
            f"The ledger of {self.model!r} was tampered with: {problem}. "
            f"Restore the files under {self.store.url_of(self.folder)} from a backup."
        )


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
