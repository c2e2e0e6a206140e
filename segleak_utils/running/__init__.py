"""Running the notebooks: headless execution, their typed parameters, the results' table, and pages.

`pages` makes one of an executed notebook, `site` a folder of all of them, docs and docstrings.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submodules=["execution", "pages", "parameters", "results", "site"]
)
