"""Running the notebooks: headless execution, typed parameters, exercises, sentences, the table."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submodules=["execution", "exercises", "parameters", "results", "sentences"]
)
