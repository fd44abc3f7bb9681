"""What tests/schemes.py says of each scheme is what its class says."""

from asr.parts import find_target
from distributed.sparse.compressed import CompressedBackend
from tests.schemes import SCHEMES, Scheme


def test_the_table_says_what_the_class_says(every_scheme: Scheme) -> None:
    kind = find_target(every_scheme.keys["_target_"], "backend")
    assert isinstance(kind, type)
    assert (kind.synchronous, kind.lockstep) == (every_scheme.synchronous, every_scheme.lockstep)
    assert issubclass(kind, CompressedBackend) == every_scheme.compresses


def test_what_a_scheme_is_built_with_is_what_its_yaml_has() -> None:
    for scheme in SCHEMES.values():
        assert {*scheme.settings_of(scheme.learners), *(scheme.exact or {})} <= scheme.keys.keys(), scheme.word
