"""requirements.lock against what is installed: the versions with which the project's tests pass."""

from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from asr.foreign.files import CONFIGURATION, read_text
from scripts.composition.startup import REPOSITORY

LOCK = REPOSITORY / "requirements.lock"


def locked_versions() -> dict[str, str]:
    """Version by name, of the locked packages that this Python and platform need."""
    lines = read_text(LOCK, CONFIGURATION).splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.lstrip().startswith("#")]
    needed = [each for each in requirements if each.marker is None or each.marker.evaluate()]
    return {canonicalize_name(each.name): next(iter(each.specifier)).version for each in needed}


def installed_version(name: str) -> str | None:
    """The installed version of a package, without the device that a build is for; None where there is none."""
    try:
        return metadata.version(name).partition("+")[0]
    except metadata.PackageNotFoundError:
        return None


def differing_versions() -> dict[str, tuple[str | None, str]]:
    """Installed and locked version of each package whose versions differ, by its name."""
    both = {name: (installed_version(name), version) for name, version in locked_versions().items()}
    return {name: pair for name, pair in both.items() if pair[0] != pair[1]}
