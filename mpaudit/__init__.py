"""mpaudit: mixed-precision training that is right.

Importing this package never imports torch, tensorflow or keras.
"""

__version__ = "0.1.0"
