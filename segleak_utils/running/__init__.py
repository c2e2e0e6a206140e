"""Running the notebooks: execution, typed parameters, exercises, the results' table, and pages.

`prose` is what a notebook says between its figures; `pages` makes a page of an executed notebook,
`site` a folder of all of them, docs and docstrings.
"""

import sys

import lazy_loader

# nbformat's jsonschema would build a grammar of addresses, which no notebook holds: 3 seconds
sys.modules.setdefault("rfc3987_syntax", None)

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["execution", "exercises", "pages", "parameters", "prose", "results", "site"],
)
