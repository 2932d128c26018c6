"""What the queries of a model version look like, and how queries as people log them become plain numbers by it."""

from detector.core.forms.form import Field, Form, Outputs

__all__ = ["Field", "Form", "Outputs"]
