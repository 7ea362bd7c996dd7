"""Typed versions of torch's module containers, which behave like torch's at run time."""

from collections.abc import ItemsView, Iterable, Iterator
from typing import TYPE_CHECKING

import torch


class ListOf[M: torch.nn.Module](torch.nn.ModuleList):
    """A ModuleList of modules of one type."""

    if TYPE_CHECKING:

        def __init__(self, modules: Iterable[M]): ...

        def __iter__(self) -> Iterator[M]: ...


class DictOf[M: torch.nn.Module](torch.nn.ModuleDict):
    """A ModuleDict of modules of one type."""

    if TYPE_CHECKING:

        def __getitem__(self, key: str) -> M: ...

        def items(self) -> ItemsView[str, M]: ...
