"""longtail finds the images that a model has not learned to handle.

>>> from longtail import Workspace
>>> workspace = Workspace.create("my-workspace")
>>> workspace.run(["photos/"], source="line-3")
>>> workspace.flags(top=20)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from longtail.workspace import Workspace

__version__ = "0.1.0"
__all__ = ["Workspace", "__version__"]


def __getattr__(name: str) -> Any:
    # Workspace imports Arrow; 'longtail --help' must not wait for it.
    if name == "Workspace":
        from longtail.workspace import Workspace

        return Workspace
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
