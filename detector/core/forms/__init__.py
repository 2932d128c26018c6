"""What the queries of a model version look like, and how queries as people log them become plain numbers by it."""

from detector.core.forms.features import Field
from detector.core.forms.form import Form, Outputs
from detector.core.forms.learning import Learned, learn
from detector.core.forms.unknown import guessed

__all__ = ["Field", "Form", "Learned", "Outputs", "guessed", "learn"]
