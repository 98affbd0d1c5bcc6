"""The folders in which the steps of a task find modules that are not installed, such as user-defined trainers."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from airflow.sdk import conf

if TYPE_CHECKING:
    from airflow.sdk import Context


def module_folders(context: Context) -> list[str]:
    """Return the folders from which a task imports modules.

    The folders are the DAG bundle of the task (Airflow adds this folder to ``sys.path``), the folder of the DAG file,
    and Airflow's folders for plugins and configuration.

    :param context: Airflow's context of the task; empty outside a task
    """
    bundle = getattr(context.get("ti"), "bundle_instance", None)
    dag = context.get("dag")
    plugins = conf.get("core", "plugins_folder", fallback="") or ""
    home = os.environ.get("AIRFLOW_HOME") or os.path.expanduser("~/airflow")
    folders = [
        str(bundle.path) if bundle is not None else "",
        os.path.dirname(str(getattr(dag, "fileloc", None) or "")),
        plugins,
        os.path.join(home, "config"),
    ]
    return list(dict.fromkeys(folder for folder in folders if folder))
