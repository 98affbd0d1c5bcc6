import gzip
import re

from airflow.api_fastapi.core_api.datamodels.plugins import ReactAppResponse
from fastapi.testclient import TestClient

from airflow_mlops.plugin import bundle
from airflow_mlops.plugin.pages import app


def test_airflow_accepts_the_pages():
    apps = [ReactAppResponse.model_validate(page) for page in bundle.react_apps()]
    assert {page.destination for page in apps} == {"nav", "dag", "task_instance"}
    # Airflow drops an app whose route another app has.
    assert len({page.url_route for page in apps}) == len(apps)


def test_the_bundle_knows_each_name_under_which_airflow_looks_for_it():
    text = (bundle.DIST / "models.js").read_text()
    assert all(f'"{page["name"]}"' in text or f"`{page['name']}`" in text for page in bundle.react_apps())


def test_the_bundle_is_small_and_sends_no_request_to_other_hosts():
    content = (bundle.DIST / "models.js").read_bytes()
    assert len(gzip.compress(content)) < 100_000
    assert set(re.findall(rb"https?://([a-z0-9.]+)", content)) <= {b"www.w3.org", b"reactjs.org", b"react.dev"}


def test_without_a_bundle_the_plugin_registers_no_page(monkeypatch, tmp_path):
    monkeypatch.setattr(bundle, "DIST", tmp_path)
    assert bundle.react_apps() == []


def test_airflow_serves_the_bundle_as_a_script_that_browsers_check_each_time():
    client = TestClient(app)
    response = client.get("/static/models.js")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/javascript")
    assert response.headers["cache-control"] == "no-cache"
    assert client.get("/static/../bundle.py").status_code == 404
    assert client.get("/static/models.js", headers={"if-none-match": response.headers["etag"]}).status_code == 304
