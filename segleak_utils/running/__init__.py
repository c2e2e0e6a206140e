"""Running the notebooks: headless execution, their typed parameters, and the results' table."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submodules=["execution", "pages", "parameters", "results"]
)
