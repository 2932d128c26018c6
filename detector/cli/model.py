"""``weirguard model``: the owner's model in a form that the detector reads."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detector.cli.files import file_for, write
from detector.cli.screen import print_lines
from detector.contracts.errors import ConfigurationError

if TYPE_CHECKING:
    from detector.core.owner_model import OwnerModel

app = typer.Typer(help="Bring your model into a form that the detector reads.", no_args_is_help=True)

_PICKLES = {".pkl", ".pickle", ".joblib", ".dill", ".cloudpickle", ".sav"}
_PICKLE_START = b"\x80"


@app.callback()
def model() -> None:
    """Bring your model into a form that the detector reads."""


@app.command()
def export(
    source: Annotated[
        str,
        typer.Argument(
            help="package.module:attribute, a fitted scikit-learn model, or an ONNX or treelite file.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="JSON file to write.")],
) -> None:
    """Write a decision tree, an ensemble of trees or a linear classifier as JSON. Pickles are never loaded."""
    from detector.core.owner_model import to_json

    file_for(out)
    exported = _from_file(Path(source)) if Path(source).exists() or ":" not in source else _imported(source)
    write(out, to_json(exported).encode())
    print_lines(f"{out}: {_describe(exported)}")


def _imported(source: str) -> OwnerModel:
    """Returns the model in a module of the owner, imported as if from the current folder."""
    from detector.cli.foreign import from_scikit_learn

    module, _, attribute = source.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        fitted: Any = import_module(module)
        for name in attribute.split("."):
            fitted = getattr(fitted, name)
    except (ModuleNotFoundError, AttributeError, ValueError) as error:
        raise ConfigurationError(f"{source}: {error}; give package.module:attribute, or a file that exists") from error
    finally:
        sys.path.pop(0)
    return from_scikit_learn(fitted)


def _from_file(path: Path) -> OwnerModel:
    from detector.cli.foreign import from_onnx, from_treelite

    if not path.is_file():
        raise ConfigurationError(f"there is no file {path}; give one, or package.module:attribute")
    with path.open("rb") as file:
        start = file.read(1)
    if path.suffix.lower() in _PICKLES or start == _PICKLE_START:
        raise ConfigurationError(
            f"{path} looks like a pickle, and whoever wrote a pickle runs code where it is loaded. Load it "
            "yourself in a module of yours, and give package.module:attribute; or save it as ONNX or with treelite"
        )
    return from_onnx(path) if path.suffix.lower() == ".onnx" else from_treelite(path)


def _describe(model: OwnerModel) -> str:
    from detector.core.owner_model import Linear, Tree

    over = f"over {len(model.features)} features"
    if isinstance(model, Tree):
        return f"a tree of {model.leaves} leaves {over}"
    if isinstance(model, Linear):
        return f"a linear model of {model.sides} classes {over}"
    return f"an ensemble of {len(model.trees)} trees {over}; margins are those of its probabilities"
