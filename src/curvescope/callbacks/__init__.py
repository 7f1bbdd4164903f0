"""Tracking inside of training frameworks; each one's module is imported by itself.

``curvescope.callbacks.lightning`` and ``curvescope.callbacks.huggingface`` have a
``CurvatureCallback`` for the framework's trainer, ``curvescope.callbacks.tensorboard``
writes what a tracker measures into TensorBoard's files.
"""

__all__: list[str] = []
