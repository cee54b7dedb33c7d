"""Nivesh workbench: text-intent classification from raw queries to a report.

Importing this package is free: no torch, mlflow, pandas or scikit-learn. Import
what you need from the module that defines it, for example::

    from nivesh_lib.data.versions import load_dataset
    from nivesh_lib.models.base import get_model
"""

__version__ = "0.1.0"

__all__ = ["__version__"]
