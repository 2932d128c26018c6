"""What an operator's process pays for the import."""

from __future__ import annotations

import subprocess
import sys

import pytest

import detector.serving

_LOADED = "import sys, {module}; print(sorted({{name.partition('.')[0] for name in sys.modules}}))"


@pytest.mark.parametrize("module", ["detector.serving", "detector.serving.asgi", "detector.serving.extractors"])
def test_importing_serving_loads_the_standard_library_alone(module: str) -> None:
    loaded = subprocess.run(
        [sys.executable, "-c", _LOADED.format(module=module)], capture_output=True, text=True, check=True
    )
    bare = subprocess.run(
        [sys.executable, "-c", _LOADED.format(module="os")], capture_output=True, text=True, check=True
    )
    ours = set(eval(loaded.stdout)) - set(eval(bare.stdout)) - set(sys.stdlib_module_names)  # noqa: S307  our own output
    assert ours == {"detector"}


def test_every_public_name_is_there() -> None:
    assert all(hasattr(detector.serving, name) for name in detector.serving.__all__)
    assert sorted(detector.serving.__all__) == detector.serving.__all__
