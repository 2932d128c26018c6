"""The form of a model version's queries, and the conversion of logged queries to plain numbers."""

from detector.core.forms.features import Field
from detector.core.forms.form import Form, Outputs
from detector.core.forms.learning import Learned, learn
from detector.core.forms.unknown import guessed

__all__ = ["Field", "Form", "Learned", "Outputs", "guessed", "learn"]
