"""requirements.lock: it is what pyproject.toml allows, and what is installed here."""

import tomllib
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from scripts.composition.startup import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


def locked() -> dict[str, str]:
    """Version by name, of the packages that this Python and platform need."""
    lines = (REPOSITORY / "requirements.lock").read_text().splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.lstrip().startswith("#")]
    needed = [each for each in requirements if each.marker is None or each.marker.evaluate()]
    return {canonicalize_name(each.name): next(iter(each.specifier)).version for each in needed}


def test_the_lock_holds_an_allowed_version_of_every_dependency() -> None:
    extras = [each for group in PROJECT["optional-dependencies"].values() for each in group]
    versions = locked()
    for requirement in map(Requirement, [*PROJECT["dependencies"], *extras]):
        version = versions.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not in requirements.lock: make lock"
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement} against {version}: make lock"


def test_the_environment_is_the_locks() -> None:
    differing = []
    for name, version in locked().items():
        try:
            installed = metadata.version(name).partition("+")[0]  # builds for one device carry its name behind a plus
        except metadata.PackageNotFoundError:
            installed = "none"
        if installed != version:
            differing.append(f"{name} {installed} in place of {version}")
    assert not differing, f"{', '.join(differing)}: make setup"
