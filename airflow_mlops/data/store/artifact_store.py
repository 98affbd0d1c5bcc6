"""The artifact store."""

from __future__ import annotations

from airflow_mlops.data.store.exclusive import ExclusiveWriting
from airflow_mlops.data.store.listing import Listing
from airflow_mlops.data.store.uploads import Uploads


class ArtifactStore(ExclusiveWriting, Listing, Uploads):
    """Files under one fsspec URL (``file://``, ``s3://``, ``gs://``, ``abfs://``, ``memory://``), identified by keys.

    A key is a relative path with ``/`` as separator. fsspec takes credentials from the environment, from the workload
    identity of the machine, or from its configuration files. The URL contains none, because it is stored in manifests
    of pods and in Airflow's database.

    Exceptions of the filesystem and of its client library become a :class:`StoreError`, which can be retried. Only
    ``FileNotFoundError`` is raised unchanged when a file is read. It means that the key does not exist.

    :param url: URL of the folder that contains all keys

    :raises StoreError: fsspec does not know the URL's protocol, the package for it is not installed, or the folder is on a
        file system of ``/etc/fstab`` that is not mounted
    :raises SpecError: the URL contains credentials
    """
