"""What a network's own code does, as a key: who edits `forward` gets new answers, not kept ones."""

from __future__ import annotations

import hashlib
from types import CodeType

from torch import nn


def code_of(model: nn.Module) -> str:
    """Hex key of the methods of all classes in a network that are not torch's.

    Compiled code is compared, so that a class of a notebook's cell counts too; what a method calls
    outside its class, and numbers kept as plain attributes, are not seen.

    >>> class Own(nn.Module):
    ...     def forward(self, x):
    ...         return 2 * x
    >>> key = code_of(Own())
    >>> Own.forward = lambda self, x: 3 * x
    >>> code_of(Own()) == key
    False
    """
    kinds = {base for of in model.modules() for base in type(of).__mro__}
    content = hashlib.sha256()
    for kind in sorted(kinds, key=lambda of: (of.__module__, of.__qualname__)):
        if kind is object or kind.__module__.split(".")[0] == "torch":
            continue
        for name, of in sorted(vars(kind).items()):
            code = getattr(getattr(of, "__func__", of), "__code__", None)
            if isinstance(code, CodeType):
                content.update(f"{name} {_text(code)}".encode())
    return content.hexdigest()


def _text(code: CodeType) -> str:
    consts = [_constant(of) for of in code.co_consts]
    return f"{code.co_code.hex()} {code.co_names} {code.co_varnames} {consts}"


def _constant(of: object) -> str:
    if isinstance(of, CodeType):
        return _text(of)
    # the order of a set of words changes from process to process
    return repr(sorted(map(repr, of))) if isinstance(of, frozenset) else repr(of)
