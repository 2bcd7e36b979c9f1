"""Errors that a user can cause. Each says which input, what was expected, what came, and what to do."""


class P3SError(ValueError):
    """Base of all errors of this package that are meant to be read by a user."""


class PointError(P3SError):
    """Points that cannot be parsed, lie outside the image, or contradict each other."""


class MaskError(P3SError):
    """Points or a picture from which no sensible mask can be made."""


class FamilyError(P3SError):
    """A model of another family than the one asked for (SD 1.x expected, SDXL came...)."""


class SubjectFileError(P3SError):
    """A subject file that is damaged, hostile, too new, or does not fit."""


class MissingPackageError(P3SError):
    """A package that a feature needs is not installed, or does not load."""


class TrainingError(P3SError):
    """Training inputs that do not fit together, or a training that went wrong."""
