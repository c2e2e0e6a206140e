"""Running the notebooks: execution, typed parameters, exercises, pages, the results' table."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submodules=["execution", "exercises", "pages", "parameters", "results"]
)
