"""requirements.lock: it is what pyproject.toml allows, and what is installed here."""

import tomllib

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from scripts.composition.checkup.locked_versions import differing_versions, locked_versions
from scripts.composition.startup import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


def test_the_lock_holds_an_allowed_version_of_every_dependency() -> None:
    extras = [each for group in PROJECT["optional-dependencies"].values() for each in group]
    versions = locked_versions()
    for requirement in map(Requirement, [*PROJECT["dependencies"], *extras]):
        version = versions.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not in requirements.lock: make lock"
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement} against {version}: make lock"


def test_the_environment_is_the_locks() -> None:
    differing = [f"{name} {have} in place of {want}" for name, (have, want) in differing_versions().items()]
    assert not differing, f"{', '.join(differing)}: make setup"
