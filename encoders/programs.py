"""A torch.export program, read so that nothing in its file runs before it is known to be harmless.

torch evaluates strings of the file: symbolic shapes through sympy, names as the source of a
function, guards. It also unpickles and loads libraries where the archive asks for it. What an
honest model holds is plain, so anything else is refused.
"""

from __future__ import annotations

import ast
import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.export import ExportedProgram
from torch.export.pt2_archive import PT2ArchiveReader
from torch.export.pt2_archive._package import load_pt2

from schemas.errors import EncoderError

_OPERATORS = re.compile(
    r"torch\.ops\.aten\.(?!save\.|from_file\.)\w+\.\w+|torch\.sym_\w+|math\.(ceil|floor|trunc)"
    r"|torch\.ops\.(prims|quantized|quantized_decomposed|torchvision)\.\w+\.\w+"
    r"|torch\.ops\.higher_order\.wrap_with_(set_grad_enabled|autocast)"
    r"|_operator\.(getitem|add|sub|mul|neg|pow|mod|abs|floordiv|truediv|lshift|rshift"
    r"|ge|gt|le|lt|eq|ne|and_|or_|not_)"
)
_NAME = re.compile(r"[\w.@-]*")
_SPEC = re.compile(r'[\w., "\[\]]*')  # no colon, equals sign or parenthesis
_NEVER_SOURCE = {"metadata", "guards_code", "torch_version", "as_string", "as_strings"}
_SYMBOLIC = re.compile(
    r"Symbol|Integer|Float|Rational|Add|Mul|Pow|Max|Min|Abs|(Python)?Mod|(Floor|Ceil|Clean)Div"
    r"|(Int|Float)TrueDiv|FloatPow|PowByNatural|[LR]Shift|ModularIndexing|Where|Identity|ToFloat"
    r"|TruncTo(Int|Float)|(Floor|Ceil|Round)ToInt|RoundDecimal|And|Or|Not|oo|int_oo|true|false"
    r"|Equality|Unequality|(Strict)?(Greater|Less)Than"
)


def load(path: Path) -> ExportedProgram:
    """Raises EncoderError for a file that holds more than a model; others as torch does."""
    with PT2ArchiveReader(str(path)) as archive:
        for name in archive.get_file_names():
            if name.startswith("data/aotinductor"):
                raise EncoderError(f"model {str(path)!r} holds compiled code; save the program")
            if name.startswith("models/"):
                _check(json.loads(archive.read_bytes(name)), "", path)
            if name.startswith("data/constants/") and name.endswith("_config.json"):
                for constant in json.loads(archive.read_bytes(name))["config"].values():
                    if not constant["path_name"].startswith("tensor_"):
                        _refuse(path, constant["path_name"])
    # not torch.export.load, which turns to an older format where this one fails
    with _weights_only():
        program = load_pt2(str(path)).exported_programs["model"]
    program._guards_code.clear()  # torch would run them
    return program


def _check(value: Any, key: str, path: Path) -> None:
    """Walk a program, which `key` holds: every string that is not of its kind is refused."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if not _NAME.fullmatch(name):
                _refuse(path, name)
            if name not in _NEVER_SOURCE:
                _check(inner, name, path)
    elif isinstance(value, list):
        for inner in value:
            _check(inner, key, path)
    elif isinstance(value, str):
        if key == "expr_str":
            plain = _is_symbolic(value)
        elif key in ("target", "as_operator"):
            plain = bool(_OPERATORS.fullmatch(value))
        elif key in ("in_spec", "out_spec"):
            return _check(json.loads(value), "spec", path)
        else:
            plain = bool((_SPEC if key in ("context", "type") else _NAME).fullmatch(value))
        if not plain:
            _refuse(path, value)


def _is_symbolic(text: str) -> bool:
    """Whether a shape is functions of sympy or torch over such functions and constants."""

    def plain(node: ast.expr) -> bool:
        if isinstance(node, ast.Call):
            inner = [*node.args, *(keyword.value for keyword in node.keywords)]
            return isinstance(node.func, ast.Name) and all(map(plain, [node.func, *inner]))
        if isinstance(node, ast.UnaryOp):
            return isinstance(node.op, ast.USub) and plain(node.operand)
        if isinstance(node, ast.Name):
            return bool(_SYMBOLIC.fullmatch(node.id))
        # sympy evaluates the strings that it is given
        return isinstance(node, ast.Constant) and bool(re.fullmatch(r"[\w.-]*", str(node.value)))

    return plain(ast.parse(text, mode="eval").body)


def _refuse(path: Path, found: str) -> None:
    raise EncoderError(
        f"model {str(path)!r} cannot be loaded: it holds {found[:80]!r}, which no plain model "
        "does and which might run code; export it anew with torch.export"
    )


_loading = threading.Lock()


@contextmanager
def _weights_only() -> Iterator[None]:
    """torch unpickles where an archive asks for it; nothing here may."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    with _loading:  # the variable is of the whole process
        before = os.environ.get(name)
        os.environ[name] = "1"
        try:
            yield
        finally:
            if before is None:
                del os.environ[name]
            else:
                os.environ[name] = before
