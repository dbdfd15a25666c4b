"""resbm for Python: the transport codec of libresbm, and a drop-in for PyTorch pipelines in :mod:`resbm.torch`."""

__version__ = "0.1.0"
