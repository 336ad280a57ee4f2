"""Where a classifier comes from that is not trained here."""

from training.classifiers.foreign import ForeignClassifier, classifier_of, said_by_source
from training.classifiers.said import ForeignInvalid, Said, said_by_user

__all__ = [
    "ForeignClassifier",
    "ForeignInvalid",
    "Said",
    "classifier_of",
    "said_by_source",
    "said_by_user",
]
