"""The images, as far as they can be tested without building them: what goes in, what stays out, and who runs them."""

from __future__ import annotations

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
# Every one that is there, so that the next one is tested too.
DOCKERFILES = sorted(str(file.relative_to(ROOT)) for file in (ROOT / "docker").rglob("*Dockerfile*"))
every_dockerfile = pytest.mark.parametrize("dockerfile", [pytest.param(name, id=name) for name in DOCKERFILES])

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
LOCK: dict[str, str] = {
    canonicalize_name(name): version
    for name, version in re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
}
CUDA = re.compile(r"nvidia-|cuda-|triton\b|cupy")


def instructions(dockerfile: str) -> list[tuple[str, str]]:
    """A Dockerfile's instructions with their arguments: no comments, each on one line."""
    lines = [line for line in (ROOT / dockerfile).read_text().splitlines() if not line.lstrip().startswith("#")]
    text = re.sub(r"\\\n", " ", "\n".join(lines))
    return [
        (word.upper(), rest.strip()) for word, _, rest in (line.partition(" ") for line in text.splitlines()) if word
    ]


def arguments(dockerfile: str) -> dict[str, str]:
    """Its build arguments with their defaults."""
    pairs = (rest.partition("=") for word, rest in instructions(dockerfile) if word == "ARG")
    return {name: default for name, _, default in pairs}


def copies(dockerfile: str) -> list[str]:
    """What it copies from the repository, not from another stage."""
    given = [rest.split() for word, rest in instructions(dockerfile) if word in ("COPY", "ADD")]
    return [path for words in given if "--from" not in " ".join(words) for path in words[:-1] if path[:2] != "--"]


def ignored(path: str) -> bool:
    """Does .dockerignore leave this path out of the build? The last pattern that fits it, or a folder above it, says."""
    answer = False
    for line in (ROOT / ".dockerignore").read_text().split():
        pattern = re.escape(line.removeprefix("!").strip("/"))
        pattern = pattern.replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*")
        if re.fullmatch(f"{pattern}(/.*)?", path):
            answer = not line.startswith("!")
    return answer


def requirements(extras: str) -> list[str]:
    """What ``docker/requirements.py`` prints, run as in the image: Python there has no libraries yet."""
    command = [sys.executable, "-I", "-S", "docker/requirements.py", "pyproject.toml", extras]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()


def build(tmp_path: Path, *images: str, builder: str = "docker", **env: str) -> dict[str, dict[str, str]]:
    """The images that ``docker/build`` asks of its builder, which notes this down and builds nothing: their arguments."""
    fake = tmp_path / builder
    fake.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >> {tmp_path}/asked\n')
    fake.chmod(0o755)
    env = {"PATH": os.environ["PATH"], "IMAGE_BUILDER": str(fake), **env}
    subprocess.run([BUILD, *images], env=env, check=True, capture_output=True, timeout=60)
    asked = {}
    for line in (tmp_path / "asked").read_text().splitlines():
        found = dict(re.findall(r"--build-arg (\w+)=(\S+)", line))
        (tag,), (file,) = re.findall(r" -t (\S+) \.$", line), re.findall(r" -f (\S+)", line)
        asked[tag] = {"file": file, **found}
    return asked


# What is installed


def test_the_runner_installs_what_its_extras_need_and_no_airflow():
    names = {canonicalize_name(Requirement(line).name) for line in requirements(arguments(RUNNER)["EXTRAS"])}
    # The package's own, an extra's, and those of extras that an extra names.
    assert {"pyarrow", "torch", "scikit-learn", "mlflow", "onnxruntime", "datasketches"} <= names
    assert [name for name in names if name.startswith(("apache-airflow", "airflow"))] == []


@pytest.mark.parametrize("extra", sorted(EXTRAS))
def test_every_library_of_a_runner_has_one_version_and_it_fits(extra):
    for line in requirements(extra):
        requirement = Requirement(line)
        version = LOCK.get(canonicalize_name(requirement.name))
        assert version is not None, f"constraints.txt does not hold {line}"
        assert requirement.specifier.contains(version), f"{line}, but constraints.txt holds {version}"


def test_a_smaller_runner_has_only_what_its_extras_need():
    names = {Requirement(line).name for line in requirements("adbc")}
    assert "adbc-driver-sqlite" in names
    assert not names & {"torch", "mlflow", "feast", "scikit-learn"}


def test_an_extra_that_is_not_there_ends_the_build():
    with pytest.raises(subprocess.CalledProcessError) as caught:
        requirements("adbc,no-such-extra")
    assert "no-such-extra" in caught.value.stderr


@every_dockerfile
def test_the_extras_that_an_image_asks_for_are_there(dockerfile):
    extras = arguments(dockerfile)["EXTRAS"].split(",")
    assert [extra for extra in extras if extra not in EXTRAS] == []


@every_dockerfile
def test_what_an_image_installs_is_held_by_the_constraints(dockerfile):
    installs = [rest for word, rest in instructions(dockerfile) if word == "RUN" and "EXTRA" in rest and "pip" in rest]
    assert installs
    for command in installs:
        assert re.search(r"pip install .*-c \S*constraints\.txt", command), command


def test_the_cpu_runner_names_nothing_of_cuda(tmp_path):
    assert [line for line in requirements(arguments(RUNNER)["EXTRAS"]) if CUDA.match(line)] == []
    ((tag, asked),) = build(tmp_path, "cpu").items()
    assert tag == f"airflow-mlops-runner:{__version__}-cpu"
    assert asked["TORCH_INDEX"].endswith("/cpu")


def test_the_cuda_runner_takes_the_torch_that_brings_it(tmp_path):
    ((tag, asked),) = build(tmp_path, "cuda").items()
    assert tag == f"airflow-mlops-runner:{__version__}-cuda"
    assert "TORCH_INDEX" not in asked
    assert arguments(RUNNER)["TORCH_INDEX"] == ""


def test_one_lock_serves_the_torch_with_cuda_and_the_one_without():
    assert [name for name in LOCK if CUDA.match(name)] == []
    assert [version for version in LOCK.values() if "+" in version] == []


def test_the_airflow_image_is_of_the_airflow_that_the_constraints_hold():
    assert arguments(AIRFLOW)["BASE"].rpartition(":")[2].startswith(f"{LOCK['apache-airflow']}-python3.11")


# How an image is made


@every_dockerfile
def test_an_image_does_not_run_as_root_and_says_so_with_a_number(dockerfile):
    words = instructions(dockerfile)
    last_stage = words[max(place for place, (word, _) in enumerate(words) if word == "FROM") :]
    users = [rest for word, rest in last_stage if word == "USER"]
    assert users, "Kubernetes' runAsNonRoot wants a USER here, whatever the base image has"
    assert re.fullmatch(r"[1-9]\d*(:\d+)?", users[-1]), users[-1]


@every_dockerfile
def test_the_image_to_build_on_is_an_argument(dockerfile):
    words = instructions(dockerfile)
    first = next(place for place, (word, _) in enumerate(words) if word == "FROM")
    assert "BASE" in [rest.partition("=")[0] for word, rest in words[:first] if word == "ARG"]
    stages = set()
    for image, *name in (rest.split() for word, rest in words if word == "FROM"):
        assert image == "${BASE}" or image in stages, image
        stages |= set(name[1:])


@every_dockerfile
def test_what_is_copied_is_there_and_reaches_the_build(dockerfile):
    assert copies(dockerfile)
    for path in copies(dockerfile):
        assert (ROOT / path).exists(), path
        files = [file for file in (ROOT / path).rglob("*") if "__pycache__" not in file.parts]
        for file in [ROOT / path, *files]:
            assert not ignored(str(file.relative_to(ROOT))), file


def test_nothing_but_what_is_copied_reaches_the_build():
    wanted = {part for dockerfile in DOCKERFILES for part in copies(dockerfile)}
    others = [
        path
        for folder in (ROOT, ROOT / "docker")
        for path in (str(file.relative_to(ROOT)) for file in folder.iterdir())
        if not any(name == path or name.startswith(f"{path}/") for name in wanted)
    ]
    for path in [*others, ".env", ".git/config", ".netrc", "pip.conf", "airflow_mlops/steps/__pycache__/ingest.pyc"]:
        assert ignored(path), path


@every_dockerfile
def test_no_image_is_the_latest(dockerfile, tmp_path):
    assert re.search(r":\d[\w.-]*(@sha256:\w+)?$", arguments(dockerfile)["BASE"])
    assert not re.search(r"\blatest\b", " ".join(rest for _, rest in instructions(dockerfile)))
    for tag in build(tmp_path):
        assert f":{__version__}" in tag


@pytest.mark.parametrize("name", [*DOCKERFILES, "docker/build"])
def test_no_secret_is_written_into_an_image(name):
    text = (ROOT / name).read_text()
    # An argument stays in the image's history, a variable in its settings.
    named = r"^\s*(ARG|ENV)\b.*(passw|secret|token|credential|fernet|api_?key|access_?key|private_?key|AIRFLOW_CONN)"
    assert not re.search(named, re.sub(r"\\\n", " ", text), re.IGNORECASE | re.MULTILINE)
    assert not re.search(r"://[^/\s\"']+@|AKIA[0-9A-Z]{16}|gh[pos]_\w{36}|PRIVATE KEY", text)


# Building them


def test_the_script_that_builds_is_sound_shell():
    assert os.access(BUILD, os.X_OK)
    assert BUILD.read_text().startswith("#!/usr/bin/env bash\n")
    checked = subprocess.run(["bash", "-n", BUILD], capture_output=True, text=True, timeout=60)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_make_images_calls_it():
    def recipe(*settings: str) -> list[str]:
        # Not the settings of a make that runs these tests.
        env = {"PATH": os.environ["PATH"]}
        command = ["make", "--no-print-directory", "-n", "images", *settings]
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True, timeout=60)
        return [line.strip() for line in done.stdout.splitlines()]

    assert recipe() == ["docker/build"]
    assert recipe("IMAGES=cpu") == ["docker/build cpu"]


@pytest.mark.parametrize("builder", ["docker", "buildah"])
def test_it_builds_every_image_unless_told_which(tmp_path, builder):
    asked = build(tmp_path, builder=builder)
    assert {tag: image["file"] for tag, image in asked.items()} == {
        f"airflow-mlops-runner:{__version__}-cpu": RUNNER,
        f"airflow-mlops-runner:{__version__}-cuda": RUNNER,
        f"airflow-mlops:{__version__}": AIRFLOW,
    }
    assert sorted({image["file"] for image in asked.values()}) == DOCKERFILES


def test_what_it_is_told_arrives_where_a_dockerfile_takes_it(tmp_path):
    told = {"EXTRAS": "adbc", "EXTRA_PACKAGES": "s3fs", "BASE": "mine:1", "AIRFLOW_BASE": "mine:2"}
    asked = build(tmp_path, IMAGE="registry.example/mlops", TORCH_CPU_INDEX="https://mirror.example/cpu", **told)
    assert all(tag.startswith("registry.example/mlops") for tag in asked)
    for image in asked.values():
        file = image.pop("file")
        # Builders take this one themselves.
        image.pop("SOURCE_DATE_EPOCH")
        assert set(image) <= set(arguments(file)), file
        assert image["BASE"] == ("mine:2" if file == AIRFLOW else "mine:1")
        assert image["EXTRA_PACKAGES"] == "s3fs"
    assert asked[f"registry.example/mlops-runner:{__version__}-cpu"]["TORCH_INDEX"] == "https://mirror.example/cpu"


def test_an_image_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(subprocess.CalledProcessError) as caught:
        build(tmp_path, "gpu")
    assert b"There is no image gpu: cpu, cuda or airflow." in caught.value.stderr
